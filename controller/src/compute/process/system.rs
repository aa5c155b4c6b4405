//! Processes of this machine, as /proc shows them. A process is its id together with its start time, since ids are used
//! again; it is signalled and waited for through a pidfd, which can mean no other.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The kernel's flag of its own threads (PF_KTHREAD).
const KERNEL_THREAD: u32 = 0x0020_0000;
/// A thread that only sleeps needs little.
const WAITER_STACK: usize = 64 * 1024;
/// How long a process is taken to live where no thread can be had that would watch it.
const WITHOUT_THREAD: Duration = Duration::from_secs(1);
/// So many looks last longer than a program needs to take the place of another.
const INSTANT: u32 = 200;

/// One process for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Clock ticks since the machine started.
    started: u64,
}

impl ProcessId {
    /// The process that has this id now; `None` when there is none, or only its zombie.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Stat::read(pid).filter(Stat::is_alive).map(|stat| Self { pid, started: stat.started })
    }

    /// Opens it; `None` when it is gone.
    pub(crate) fn open(self) -> io::Result<Option<Handle>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Looked at after opening: if it is the one that was meant now, the descriptor means it for ever.
        if Self::of(self.pid) != Some(self) {
            return Ok(None);
        }
        Ok(Some(Handle { fd: Arc::new(fd) }))
    }
}

/// An open process.
pub(crate) struct Handle {
    fd: Arc<OwnedFd>,
}

impl Handle {
    /// Sends a signal; to one that is gone already counts as sent.
    pub(crate) fn send(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it has ended; whether its parent has collected it does not matter. On a thread that sleeps in the
    /// kernel, since the runtime's own way to watch a descriptor is unsafe to call; and on none of the runtime's threads
    /// for blocking work, which so many hosts would use up.
    pub(crate) async fn ended(&self) {
        let fd = Arc::clone(&self.fd);
        let (told, heard) = tokio::sync::oneshot::channel();
        let wait = move || {
            while let Err(Errno::INTR) = poll(&mut [PollFd::new(&fd, PollFlags::IN)], None) {}
            // Whoever waited may have gone.
            let _ = told.send(());
        };
        let thread = std::thread::Builder::new().name("process-end".to_owned()).stack_size(WAITER_STACK);
        if let Err(error) = thread.spawn(wait) {
            tracing::error!("a process cannot be watched: start a thread: {error}");
            // Whoever waits looks at the process again afterwards.
            tokio::time::sleep(WITHOUT_THREAD).await;
            return;
        }
        // It is always told.
        let _ = heard.await;
    }
}

struct Stat {
    state: u8,
    parent: i32,
    terminal: i32,
    flags: u32,
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// `pid (name) state ppid pgrp session tty_nr ...`; the name may hold anything, so the last parenthesis counts.
    fn parse(line: &[u8]) -> Option<Self> {
        let end = line.iter().rposition(|byte| *byte == b')')?;
        let text = std::str::from_utf8(line.get(end + 2..)?).ok()?;
        let mut fields = text.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        // proc(5): the terminal is field 7, the flags field 9, the start time field 22.
        let terminal = fields.nth(2)?.parse().ok()?;
        let flags = fields.nth(1)?.parse().ok()?;
        let started = fields.nth(12)?.parse().ok()?;
        Some(Self { state, parent, terminal, flags, started })
    }

    fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// A process in a picture of the machine.
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) parent: i32,
    /// Whether it belongs to somebody's terminal, which nothing that this program starts does.
    pub(crate) has_terminal: bool,
    pub(crate) arguments: Vec<OsString>,
    /// `None` when it may not be known.
    pub(crate) directory: Option<PathBuf>,
}

/// Every living process, zombies and kernel threads left out.
pub(crate) fn processes() -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // Any of these files may go away with its process.
        let Some(stat) = Stat::read(pid).filter(Stat::is_alive) else { continue };
        let line = command_line(pid, &stat);
        if line.is_empty() {
            continue;
        }
        let line = line.strip_suffix(b"\0").unwrap_or(&line);
        found.push(Process {
            id: ProcessId { pid, started: stat.started },
            parent: stat.parent,
            has_terminal: stat.terminal != 0,
            arguments: line.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect(),
            directory: fs::read_link(format!("/proc/{pid}/cwd")).ok(),
        });
    }
    Ok(found)
}

/// Kernel threads have none, and a program has none for the instant in which it takes the place of another.
fn command_line(pid: i32, stat: &Stat) -> Vec<u8> {
    let tries = if stat.flags & KERNEL_THREAD == 0 { INSTANT } else { 0 };
    for _ in 0..tries {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if !line.is_empty() || !Stat::read(pid).is_some_and(|now| now.is_alive()) {
            return line;
        }
        std::thread::yield_now();
    }
    Vec::new()
}

/// Shared memory that outlives the processes that use it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shared {
    /// A System V segment, by its id.
    Segment(u64),
    /// A file of /dev/shm.
    File(PathBuf),
}

impl Shared {
    /// What a process has mapped.
    pub(crate) fn of(process: ProcessId) -> Vec<Self> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", process.pid)).unwrap_or_default();
        let mut mapped: Vec<Self> = maps.lines().filter_map(Self::parse).collect();
        mapped.sort();
        mapped.dedup();
        mapped
    }

    /// `range mode offset device inode name`: the name of a segment is `/SYSV<key>`, its inode the segment's id.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let inode = fields.nth(4)?;
        let name = fields.next()?;
        if name.starts_with("/SYSV") {
            return inode.parse().ok().map(Self::Segment);
        }
        let is_there = Path::new(name).starts_with("/dev/shm") && fields.next().is_none();
        is_there.then(|| Self::File(name.into()))
    }
}

/// A System V segment that nobody has attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unattached {
    pub(crate) id: u64,
    /// The process that made it, living or not.
    pub(crate) maker: i32,
    /// The account that it belongs to.
    pub(crate) owner: u32,
}

/// The System V segments that nobody has attached.
pub(crate) fn unattached_segments() -> Vec<Unattached> {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    table.lines().skip(1).filter_map(Unattached::parse).collect()
}

impl Unattached {
    /// `key shmid perms size cpid lpid nattch uid ...`
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let id = fields.nth(1)?.parse().ok()?;
        let maker = fields.nth(2)?.parse().ok()?;
        let users: u64 = fields.nth(1)?.parse().ok()?;
        let owner = fields.next()?.parse().ok()?;
        (users == 0).then_some(Self { id, maker, owner })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let line = b"42 (a) b (c)) S 7 1 1 34816 1 0 0 0 0 0 1 2 3 4 20 0 1 0 98765 4096 1";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.terminal, stat.started), (b'S', 7, 34816, 98765));
        assert!(Stat::parse(b"42 (a").is_none());
        assert!(!Stat::parse(b"42 (a) Z 7 1 1 0 1 0 0 0 0 0 1 2 3 4 20 0 1 0 98765 0 0").unwrap().is_alive());
    }

    /// So that logins and locks do not wait for hosts to die.
    #[test]
    fn those_who_are_watched_take_no_thread_of_the_runtime() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let me = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
            let handle = Arc::new(me.open().unwrap().unwrap());
            for _ in 0..3 {
                let handle = handle.clone();
                tokio::spawn(async move { handle.ended().await });
            }
            tokio::task::yield_now().await;
            let work = tokio::time::timeout(Duration::from_secs(20), tokio::task::spawn_blocking(|| 1));
            assert_eq!(work.await.unwrap().unwrap(), 1);
        });
        runtime.shutdown_background();
    }

    #[test]
    fn finds_itself() {
        let me = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let all = processes().unwrap();
        let found = all.iter().find(|process| process.id == me).unwrap();
        assert_eq!(found.directory.as_deref(), Some(std::env::current_dir().unwrap().as_path()));
        assert_eq!(found.arguments.first().map(OsString::as_os_str), std::env::args_os().next().as_deref());
        assert_eq!(ProcessId::of(0), None);
    }

    #[test]
    fn reads_shared_memory_from_maps_and_tables() {
        let segment = "7f00-7f01 rw-s 00000000 00:01 32769                      /SYSV0052e2c1 (deleted)";
        assert_eq!(Shared::parse(segment), Some(Shared::Segment(32769)));
        let file = "7f00-7f01 rw-s 00000000 00:18 5                             /dev/shm/PostgreSQL.123";
        assert_eq!(Shared::parse(file), Some(Shared::File("/dev/shm/PostgreSQL.123".into())));
        assert_eq!(Shared::parse("7f00-7f01 rw-s 00000000 00:18 5 /dev/shm/gone (deleted)"), None);
        assert_eq!(Shared::parse("7f00-7f01 rw-p 00000000 00:00 0"), None);
        assert_eq!(Shared::parse("7f00-7f01 r-xp 00000000 08:01 12 /usr/bin/true"), None);
        let row = "   5432001      32769   600                    56  1234  1300      0  999  995";
        assert_eq!(Unattached::parse(row), Some(Unattached { id: 32769, maker: 1234, owner: 999 }));
        assert_eq!(Unattached::parse(&row.replace("      0", "      6")), None, "six have it");
    }
}
