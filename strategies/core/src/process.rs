//! Processes of this machine and members of control groups, as the kernel shows them. Any process may end at any moment: what
//! has gone is `None`. Everything else, such as that no descriptor is left, is an error: who could not look must not take a
//! process for dead.
//!
//! Tenants name their processes and files: a name may be any bytes, and is never a reason not to see the rest.

#![allow(clippy::disallowed_methods, reason = "/proc and control groups, which nobody but the kernel writes")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// What was looked at, or `None` where it is not there, or not any more.
///
/// # Errors
/// It could not be looked.
pub fn if_there<T>(looked: io::Result<T>) -> io::Result<Option<T>> {
    let gone = |error: &io::Error| {
        // The kernel says the last two of a process, or of a control group, that has gone since its file was opened.
        error.kind() == io::ErrorKind::NotFound
            || [Errno::SRCH, Errno::NODEV].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
    };
    match looked {
        Ok(seen) => Ok(Some(seen)),
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The same of a process: another account's, which an ordinary user may not look at where /proc hides it, is none of ours.
///
/// # Errors
/// It could not be looked.
pub fn if_visible<T>(looked: io::Result<T>) -> io::Result<Option<T>> {
    match looked {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        looked => if_there(looked),
    }
}

/// What `/proc/<pid>/stat` says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// A letter, see proc(5).
    pub state: u8,
    /// The process that started it, or adopted it.
    pub parent: i32,
    /// The process that leads its session.
    pub session: i32,
    /// Its terminal; 0 where it has none.
    pub terminal: i32,
    /// How many threads it has.
    pub threads: u32,
    /// Start time, clock ticks since the machine started. With the id it means one process: ids are used again.
    pub started: u64,
}

impl Stat {
    /// Of a process, be it a zombie.
    ///
    /// # Errors
    /// It could not be looked.
    pub fn of(pid: i32) -> io::Result<Option<Self>> {
        let file = format!("/proc/{pid}/stat");
        let Some(line) = if_visible(fs::read(&file))? else { return Ok(None) };
        Self::parse(&line).map(Some).ok_or_else(|| io::Error::other(format!("{file} is not understood")))
    }

    /// `pid (name) state ppid pgrp session tty_nr ...`; the name may hold anything, so the last parenthesis counts.
    fn parse(line: &[u8]) -> Option<Self> {
        let end = line.iter().rposition(|byte| *byte == b')')?;
        let text = std::str::from_utf8(line.get(end + 2..)?).ok()?;
        let mut fields = text.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        // proc(5): the session is field 6, the terminal field 7, the number of threads field 20, the start time field 22.
        let session = fields.nth(1)?.parse().ok()?;
        let terminal = fields.next()?.parse().ok()?;
        let threads = fields.nth(12)?.parse().ok()?;
        let started = fields.nth(1)?.parse().ok()?;
        Some(Self { state, parent, session, terminal, threads, started })
    }

    /// A process whose first thread has ended looks like a zombie, and lives on with its other threads.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x') || self.threads > 1
    }
}

/// The ids of all processes.
///
/// # Errors
/// It could not be looked.
pub fn pids() -> io::Result<Vec<i32>> {
    let names = fs::read_dir("/proc")?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// The accounts that a process can act as: real, effective, saved and for files.
///
/// # Errors
/// It could not be looked.
pub fn accounts(pid: i32) -> io::Result<Option<BTreeSet<u32>>> {
    let Some(status) = if_visible(fs::read(format!("/proc/{pid}/status")))? else { return Ok(None) };
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    Ok(Some(line.split_ascii_whitespace().filter_map(|field| field.parse().ok()).collect()))
}

/// The program that a process runs, also when its file was replaced meanwhile.
///
/// # Errors
/// It could not be looked.
pub fn program(pid: i32) -> io::Result<Option<PathBuf>> {
    Ok(if_visible(fs::read_link(format!("/proc/{pid}/exe")))?.map(without_mark))
}

/// The kernel marks the name of a file that was replaced.
fn without_mark(program: PathBuf) -> PathBuf {
    match program.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(name) => PathBuf::from(OsStr::from_bytes(name)),
        None => program,
    }
}

/// The directory that a process works in.
///
/// # Errors
/// It could not be looked.
pub fn directory(pid: i32) -> io::Result<Option<PathBuf>> {
    if_visible(fs::read_link(format!("/proc/{pid}/cwd")))
}

/// The processes in a control group, without those in groups below it; none where there is no such group.
///
/// # Errors
/// It could not be looked.
pub fn members(group: &Path) -> io::Result<Vec<i32>> {
    let listed = if_there(fs::read_to_string(group.join("cgroup.procs")))?.unwrap_or_default();
    Ok(listed.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Ends all processes of a control group at once, also those that multiply, where the kernel can (version 2, Linux 5.14).
/// Elsewhere nothing happens.
pub fn kill_members(group: &Path) {
    // A group that is gone, or a kernel without it, takes the signals one by one.
    let _ = fs::write(group.join("cgroup.kill"), "1");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let line = b"42 (a) b (c)) S 7 1 1 34816 1 0 0 0 0 0 1 2 3 4 20 0 1 0 98765 4096 1";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.session, stat.started), (b'S', 7, 1, 98765));
        assert_eq!(stat.terminal, 34816);
        assert!(Stat::parse(b"42 (a").is_none());
        let zombie = b"42 (a) Z 7 1 1 0 1 0 0 0 0 0 1 2 3 4 20 0 1 0 98765 0 0";
        assert!(!Stat::parse(zombie).unwrap().is_alive());
        let led_by_zombie = b"42 (a) Z 7 1 1 0 1 0 0 0 0 0 1 2 3 4 20 0 2 0 98765 0 0";
        assert!(Stat::parse(led_by_zombie).unwrap().is_alive());
    }

    #[test]
    fn only_what_is_not_there_is_gone() {
        let failed = |errno: Errno| if_there::<()>(Err(errno.into()));
        for errno in [Errno::NOENT, Errno::SRCH, Errno::NODEV] {
            assert!(failed(errno).unwrap().is_none(), "{errno}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO, Errno::ACCESS] {
            assert!(failed(errno).is_err(), "{errno}");
        }
        assert!(if_visible::<()>(Err(Errno::ACCESS.into())).unwrap().is_none());
        assert!(if_visible::<()>(Err(Errno::MFILE.into())).is_err());
    }

    #[test]
    fn finds_itself() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(pids().unwrap().contains(&me) && Stat::of(me).unwrap().unwrap().is_alive());
        assert_eq!(directory(me).unwrap(), std::env::current_dir().ok());
        assert_eq!(program(me).unwrap(), std::env::current_exe().ok());
        assert_eq!(accounts(me).unwrap(), Some(BTreeSet::from([nix::unistd::geteuid().as_raw()])));
        assert_eq!(without_mark("/opt/a b (deleted)".into()), Path::new("/opt/a b"));
        assert_eq!(Stat::of(0).unwrap(), None);
    }

    /// A tenant can call his process so. Whoever could not read on would see none of them.
    #[test]
    fn a_name_that_is_no_text_hides_nothing() {
        let script = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'\\xff) Z\\n(Uid:'); time.sleep(60)";
        let mut child = std::process::Command::new("python3").args(["-c", script]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !fs::read(format!("/proc/{pid}/comm")).unwrap().contains(&0xff) {
            assert!(std::time::Instant::now() < until, "it does not take its name");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let (stat, uids) = (Stat::of(pid), accounts(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(stat.unwrap().unwrap().is_alive());
        assert_eq!(uids.unwrap(), Some(BTreeSet::from([nix::unistd::geteuid().as_raw()])));
    }

    #[test]
    fn members_are_those_of_the_group_alone() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(members(&scratch.path().join("gone")).unwrap().is_empty());
        fs::write(scratch.path().join("cgroup.procs"), "7\n12\n").unwrap();
        assert_eq!(members(scratch.path()).unwrap(), [7, 12]);
    }
}
