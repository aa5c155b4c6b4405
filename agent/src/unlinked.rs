//! Measures unlinked files: files of the engine's account that have no name, but occupy space on the volume as long as
//! a process uses them.
//!
//! Found are files that are open, mapped, or the executable of a process. Not found are files that are only in transit
//! in a socket message (SCM_RIGHTS), registered in an io_uring, or mounted in a namespace of the tenant's.
//!
//! The search is bounded. A process with more descriptors and mappings than the bound could hide any file, and no
//! engine needs so many: it is killed.

#![allow(
    clippy::disallowed_methods,
    reason = "/proc, whose links are looked at and not followed to anything that is opened"
)]

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use trove_strategy::beneath::Measure;
use trove_strategy::process::{Stat, accounts, if_there, if_visible};

use crate::process::Mark;

/// Bytes of a list of mappings that count as one unit of work. To look at one descriptor or mapping is a unit, too, and
/// takes one or two microseconds.
const PIECE: usize = 64;
/// Greatest work for one process. A Redis with five threads that share 100,000 connections stays below it.
const WORK: u64 = 1 << 20;
/// Greatest work for all processes. A PostgreSQL with 1024 processes of a thousand files each stays below it.
const WORK_OF_ALL: u64 = 2 << 20;

/// Which files are looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sought {
    /// Their file system: major and minor number.
    pub(crate) device: (u32, u32),
    /// Their owner.
    pub(crate) uid: u32,
}

struct Search {
    sought: Sought,
    bytes: u64,
    seen: HashSet<u64>,
    /// Work for the current process.
    work: u64,
}

impl Search {
    /// Counts the file that a link of /proc leads to. `STATX_DONT_SYNC` keeps a FUSE file system, which could be a
    /// program of the tenant's, from being asked.
    fn look(&mut self, link: &str) {
        self.work += 1;
        let wanted = StatxFlags::NLINK | StatxFlags::UID | StatxFlags::INO | StatxFlags::BLOCKS;
        // The file is gone, or not visible without root.
        let Ok(facts) = statx(CWD, link, AtFlags::STATX_DONT_SYNC, wanted) else { return };
        let is_meant = facts.stx_nlink == 0
            && facts.stx_uid == self.sought.uid
            && (facts.stx_dev_major, facts.stx_dev_minor) == self.sought.device;
        if is_meant && self.seen.insert(facts.stx_ino) {
            self.bytes += Measure::of_blocks(facts.stx_blocks);
        }
    }

    /// Looks at one process. `false` if it has more than the bound.
    fn look_at(&mut self, pid: i32) -> io::Result<bool> {
        self.work = 0;
        // Threads share executable and mappings, so one thread is enough; but a thread that has ended, such as the
        // first one, does not show them.
        let mut is_shown = false;
        for thread in names(&format!("/proc/{pid}/task"))? {
            let thread = thread?;
            self.look_at_descriptors(&format!("/proc/{pid}/task/{thread}/fd"))?;
            if !is_shown {
                self.look_at_mappings(&format!("/proc/{thread}"))?;
                is_shown = thread
                    .parse()
                    .is_ok_and(|thread| Stat::of(thread).is_ok_and(|stat| stat.is_some_and(has_not_ended)));
            }
            if self.work > WORK {
                return Ok(false);
            }
        }
        // If no thread showed its mappings: a process that runs without its first thread could hide files; any other is
        // ending.
        Ok(is_shown || !Stat::of(pid)?.is_some_and(|stat| !has_not_ended(stat) && stat.is_alive()))
    }

    /// Looks at the descriptors of one thread, which may have its own table.
    fn look_at_descriptors(&mut self, directory: &str) -> io::Result<()> {
        for descriptor in names(directory)? {
            self.look(&format!("{directory}/{}", descriptor?));
            if self.work > WORK {
                break;
            }
        }
        Ok(())
    }

    /// Looks at the executable and the mappings of one thread. `thread` is a directory of /proc.
    fn look_at_mappings(&mut self, thread: &str) -> io::Result<()> {
        self.look(&format!("{thread}/exe"));
        let Some(maps) = if_visible(File::open(format!("{thread}/maps")))? else { return Ok(()) };
        let mut lines = BufReader::new(maps);
        let mut line = Vec::new();
        while self.work <= WORK {
            line.clear();
            let Some(read) = if_visible(lines.read_until(b'\n', &mut line))?.filter(|read| *read > 0) else { break };
            self.work += read.div_ceil(PIECE) as u64;
            if let Some(range) = of_unlinked(&line) {
                self.look(&format!("{thread}/map_files/{range}"));
            }
        }
        Ok(())
    }
}

fn has_not_ended(thread: Stat) -> bool {
    !matches!(thread.state, b'Z' | b'X' | b'x')
}

/// Disk space of the unlinked files that these processes use. A process with more than [`WORK`] is killed; if all
/// together have more than [`WORK_OF_ALL`], those with the most are killed.
pub(crate) fn measure(sought: Sought, processes: impl IntoIterator<Item = i32>) -> io::Result<Measure> {
    let mut search = Search { sought, bytes: 0, seen: HashSet::new(), work: 0 };
    let (mut looked_at, mut all, mut is_whole) = (Vec::new(), 0, true);
    for pid in processes {
        let Some(mark) = Mark::of(pid)? else { continue };
        if !search.look_at(pid)? {
            is_whole = false;
            end(mark, sought.uid)?;
        }
        looked_at.push((search.work, mark));
        all += search.work;
        if all > WORK_OF_ALL {
            is_whole = false;
            break;
        }
    }
    if all > WORK_OF_ALL {
        for mark in largest(looked_at, all) {
            end(mark, sought.uid)?;
        }
    }
    Ok(Measure { bytes: search.bytes, is_whole })
}

/// The processes with the most work, until the rest is at most half of [`WORK_OF_ALL`].
fn largest(mut looked_at: Vec<(u64, Mark)>, mut all: u64) -> Vec<Mark> {
    looked_at.sort_by_key(|(work, _)| std::cmp::Reverse(*work));
    let is_too_much = |(work, _): &(u64, Mark)| {
        let is_too_much = all > WORK_OF_ALL / 2;
        all -= work;
        is_too_much
    };
    looked_at.into_iter().take_while(is_too_much).map(|(_, mark)| mark).collect()
}

/// Kills a process, unless it has ended or its pid was reused.
fn end(mark: Mark, uid: u32) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(mark.pid) else { return Ok(()) };
    let Some(handle) = if_there(pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from))? else { return Ok(()) };
    if !mark.runs()? || accounts(mark.pid)?.is_none_or(|accounts| !accounts.iter().eq([&uid])) {
        return Ok(());
    }
    let name = if_visible(std::fs::read(format!("/proc/{}/comm", mark.pid)))?.unwrap_or_default();
    let name = String::from_utf8_lossy(&name).trim_end().to_owned();
    tracing::warn!(pid = mark.pid, ?name, "a process has more open or mapped than can be measured, and is ended");
    // It may have ended by itself.
    if_there(pidfd_send_signal(handle, Signal::KILL).map_err(io::Error::from)).map(drop)
}

/// Parses a line of /proc/PID/maps, `range mode offset device inode name`. If its file is unlinked (the name ends with
/// " (deleted)"), returns the range without leading zeros, as `map_files` has it.
fn of_unlinked(line: &[u8]) -> Option<String> {
    line.strip_suffix(b" (deleted)\n")?;
    let range = std::str::from_utf8(line.split(|byte| *byte == b' ').next()?).ok()?;
    let (from, to) = range.split_once('-')?;
    let plain = |address: &str| u64::from_str_radix(address, 16).ok();
    Some(format!("{:x}-{:x}", plain(from)?, plain(to)?))
}

/// Names in a directory of /proc; none if it is gone, or hidden from a user without root.
fn names(directory: &str) -> io::Result<impl Iterator<Item = io::Result<String>>> {
    let entries = if_visible(std::fs::read_dir(directory))?.into_iter().flatten();
    Ok(entries.filter_map(|entry| {
        let name = entry.map(|entry| entry.file_name().to_string_lossy().into_owned());
        if_visible(name).transpose()
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use super::*;

    fn file(directory: &Path, kib: usize) -> File {
        let path = directory.join("file");
        std::fs::write(&path, vec![1; kib << 10]).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    fn sought(directory: &Path) -> Sought {
        let device = std::fs::metadata(directory).unwrap().dev();
        let device = (rustix::fs::major(device), rustix::fs::minor(device));
        Sought { device, uid: nix::unistd::geteuid().as_raw() }
    }

    fn kib(directory: &Path, pid: u32) -> u64 {
        let found = measure(sought(directory), [i32::try_from(pid).unwrap()]).unwrap();
        assert!(found.is_whole);
        found.bytes >> 10
    }

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(Instant::now() < deadline, "in vain: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn stop(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_is_open_without_a_name_counts_once() {
        let scratch = tempfile::tempdir().unwrap();
        let named = scratch.path().join("named");
        std::fs::write(&named, vec![1; 64 << 10]).unwrap();
        let held = file(scratch.path(), 1024);
        let mut command = Command::new("sleep");
        command.arg("600").stdin(held.try_clone().unwrap()).stdout(held).stderr(File::open(&named).unwrap());
        let child = command.spawn().unwrap();
        let found = kib(scratch.path(), child.id());
        stop(child);
        assert!((1024..1100).contains(&found), "{found}");
    }

    /// The first thread has ended; another has its own table of descriptors.
    #[test]
    fn what_one_thread_has_open_counts() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("file"), vec![1; 1 << 20]).unwrap();
        let script = "import ctypes, os, platform, sys, threading, time\n\
                      call = ctypes.CDLL(None).syscall\n\
                      def hold():\n\
                      \x20   call(272 if platform.machine() == 'x86_64' else 97, 0x400)\n\
                      \x20   os.open('file', os.O_RDONLY)\n\
                      \x20   os.unlink('file')\n\
                      \x20   time.sleep(600)\n\
                      threading.Thread(target=hold).start()\n\
                      call(60 if platform.machine() == 'x86_64' else 93, 0)";
        let child = Command::new("python3").args(["-c", script]).current_dir(scratch.path()).spawn().unwrap();
        let pid = child.id();
        until("its thread has the file", || !scratch.path().join("file").exists());
        let found = kib(scratch.path(), pid);
        stop(child);
        assert!((1024..1100).contains(&found), "{found}");
    }

    #[test]
    fn what_is_mapped_or_run_without_a_name_counts() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("file"), vec![1; 1 << 20]).unwrap();
        let script = "import ctypes, os, time\n\
                      file = os.open('file', os.O_RDONLY)\n\
                      ctypes.CDLL(None).mmap(None, ctypes.c_size_t(1 << 20), 1, 2, file, ctypes.c_long(0))\n\
                      os.close(file)\n\
                      os.unlink('file')\n\
                      time.sleep(600)";
        let child = Command::new("python3").args(["-c", script]).current_dir(scratch.path()).spawn().unwrap();
        until("it has mapped the file", || !scratch.path().join("file").exists());
        let found = kib(scratch.path(), child.id());
        stop(child);
        // map_files is readable by root only.
        assert!((1024..1100).contains(&found) || !nix::unistd::geteuid().is_root(), "{found}");

        let program = scratch.path().join("program");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let child = Command::new(&program).arg("600").spawn().unwrap();
        until("it runs", || std::fs::read_link(format!("/proc/{}/exe", child.id())).is_ok_and(|exe| exe == program));
        std::fs::remove_file(&program).unwrap();
        let found = kib(scratch.path(), child.id());
        stop(child);
        assert!(found > 8, "{found}");
    }

    /// The first thread, which has ended, shows no mappings; the others do.
    #[test]
    fn what_is_mapped_counts_after_the_first_thread_has_ended() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("file"), vec![1; 1 << 20]).unwrap();
        let script = "import ctypes, os, platform, threading, time\n\
                      file = os.open('file', os.O_RDONLY)\n\
                      ctypes.CDLL(None).mmap(None, ctypes.c_size_t(1 << 20), 1, 2, file, ctypes.c_long(0))\n\
                      os.close(file)\n\
                      threading.Thread(target=time.sleep, args=(600,)).start()\n\
                      os.unlink('file')\n\
                      ctypes.CDLL(None).syscall(60 if platform.machine() == 'x86_64' else 93, 0)";
        let child = Command::new("python3").args(["-c", script]).current_dir(scratch.path()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        until("its first thread ends", || Stat::of(pid).unwrap().is_some_and(|stat| !has_not_ended(stat)));
        let found = kib(scratch.path(), child.id());
        stop(child);
        assert!((1024..1100).contains(&found) || !nix::unistd::geteuid().is_root(), "{found}");
    }

    #[test]
    fn who_has_too_much_is_ended_and_the_others_count() {
        let scratch = tempfile::tempdir().unwrap();
        let script = "import ctypes, os, time\n\
                      os.makedirs(('x' * 250 + '/') * 10)\n\
                      file = os.open(('x' * 250 + '/') * 10 + 'x', os.O_RDWR | os.O_CREAT)\n\
                      os.truncate(file, 4096)\n\
                      map = ctypes.CDLL(None).mmap\n\
                      [map(None, ctypes.c_size_t(4096), 1, 2, file, ctypes.c_long(0)) for _ in range(40000)]\n\
                      open('ready', 'w')\n\
                      time.sleep(600)";
        let mut hog = Command::new("python3").args(["-c", script]).current_dir(scratch.path()).spawn().unwrap();
        until("it has its mappings", || scratch.path().join("ready").exists());
        let holder = Command::new("sleep").arg("600").stdin(file(scratch.path(), 1024)).spawn().unwrap();
        let pids = [&hog, &holder].map(|child| i32::try_from(child.id()).unwrap());
        let found = measure(sought(scratch.path()), pids).unwrap();
        stop(holder);
        assert!(!found.is_whole && (1024..1100).contains(&(found.bytes >> 10)), "{found:?}");
        assert!(!hog.wait().unwrap().success(), "it was not ended");
    }

    #[test]
    fn the_largest_are_chosen_where_all_are_too_much() {
        let mark = |pid| Mark { pid, started: 0 };
        let of = |work: [u64; 4]| {
            let marked = work.into_iter().zip(1..).map(|(work, pid)| (work, mark(pid))).collect();
            largest(marked, work.iter().sum()).into_iter().map(|mark| mark.pid).collect::<Vec<_>>()
        };
        assert_eq!(of([1000, WORK_OF_ALL, 2000, WORK_OF_ALL / 4]), [2]);
        assert_eq!(of([1000, WORK_OF_ALL / 2, 2000, WORK_OF_ALL / 2]), [2, 4]);
        assert!(of([1000, WORK_OF_ALL / 4, 2000, 3000]).is_empty());
    }

    #[test]
    fn lists_of_mappings_are_read() {
        let unlinked = b"7f00aa-7f01bb r--s 00000000 08:01 12                  /data/a file (deleted)\n";
        assert_eq!(of_unlinked(unlinked).as_deref(), Some("7f00aa-7f01bb"));
        let low = b"00010000-00020000 r--s 00000000 08:01 12                  /data/x (deleted)\n";
        assert_eq!(of_unlinked(low).as_deref(), Some("10000-20000"));
        assert_eq!(of_unlinked(b"7f00aa-7f01bb r--s 00000000 08:01 12                  /data/file\n"), None);
    }
}
