//! Processes of this machine, from /proc. A process is identified by pid and start time, since pids are reused. It is
//! signalled and waited for through a pidfd, which always refers to the same process.

#![allow(clippy::disallowed_methods, reason = "/proc")]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use trove_strategy::process::{self, Stat, if_there, if_visible};

/// Stack of a thread that only waits, bytes.
const WAITER_STACK: usize = 64 * 1024;
/// Pause that replaces the wait for a process if no thread can be started.
const WITHOUT_THREAD: Duration = Duration::from_secs(1);

/// Identity of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Start time, clock ticks since boot.
    started: u64,
}

impl ProcessId {
    /// The process that has this pid now; `None` if there is none, or only a zombie.
    pub(crate) fn of(pid: i32) -> io::Result<Option<Self>> {
        let stat = Stat::of(pid)?.filter(Stat::is_alive);
        Ok(stat.map(|stat| Self { pid, started: stat.started }))
    }

    /// Opens the process; `None` if it has ended.
    pub(crate) fn open(self) -> io::Result<Option<Handle>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Check after opening: if the pid is still the same process, the descriptor refers to it.
        if Self::of(self.pid)? != Some(self) {
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
    /// Sends a signal. It is no error if the process has ended.
    pub(crate) fn send(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Duplicates a descriptor of the process.
    pub(crate) fn descriptor(&self, number: i32) -> io::Result<OwnedFd> {
        Ok(pidfd_getfd(&self.fd, number, PidfdGetfdFlags::empty())?)
    }

    /// Waits until the process has ended, reaped or not. Uses a thread that blocks in poll(2), since tokio's `AsyncFd`
    /// needs unsafe code here. The thread is not one of tokio's for blocking work, since many hosts would use those up.
    pub(crate) async fn ended(&self) {
        let fd = Arc::clone(&self.fd);
        let (told, heard) = tokio::sync::oneshot::channel();
        let wait = move || {
            while let Err(Errno::INTR) = poll(&mut [PollFd::new(&fd, PollFlags::IN)], None) {}
            // The waiting future may have been dropped.
            let _ = told.send(());
        };
        let thread = std::thread::Builder::new().name("process-end".to_owned()).stack_size(WAITER_STACK);
        if let Err(error) = thread.spawn(wait) {
            tracing::error!("a process cannot be watched: start a thread: {error}");
            // The caller checks afterwards whether the process runs.
            tokio::time::sleep(WITHOUT_THREAD).await;
            return;
        }
        // The thread always sends.
        let _ = heard.await;
    }
}

/// A process as it was when /proc was read.
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) parent: i32,
    /// Whether it leads a session. Agents and engines do.
    pub(crate) leads: bool,
    /// Whether it has a controlling terminal. Nothing that this program starts has one.
    pub(crate) has_terminal: bool,
    /// Its user ids: real, effective, saved and file system.
    pub(crate) accounts: BTreeSet<u32>,
    /// Its executable, even after the file was replaced; `None` if not readable.
    pub(crate) program: Option<PathBuf>,
    /// Its working directory; `None` if not readable.
    pub(crate) directory: Option<PathBuf>,
}

impl Process {
    /// The process that has this pid now, unless it is a zombie.
    pub(crate) fn of(pid: i32) -> io::Result<Option<Self>> {
        // Each of these files disappears when the process ends.
        let Some(stat) = Stat::of(pid)?.filter(Stat::is_alive) else { return Ok(None) };
        let Some(accounts) = process::accounts(pid)? else { return Ok(None) };
        Ok(Some(Self {
            id: ProcessId { pid, started: stat.started },
            parent: stat.parent,
            leads: stat.session == pid,
            has_terminal: stat.terminal != 0,
            accounts,
            program: process::program(pid)?,
            directory: process::directory(pid)?,
        }))
    }
}

/// All processes except zombies.
pub(crate) fn processes() -> io::Result<Vec<Process>> {
    process::pids()?.into_iter().filter_map(|pid| Process::of(pid).transpose()).collect()
}

/// Processes that have this user id, except zombies.
pub(crate) fn processes_of(uid: u32) -> io::Result<Vec<ProcessId>> {
    let mut found = Vec::new();
    for pid in process::pids()? {
        if process::accounts(pid)?.is_some_and(|accounts| accounts.contains(&uid)) {
            found.extend(ProcessId::of(pid)?);
        }
    }
    Ok(found)
}

/// All user ids that have processes or System V objects.
pub(crate) fn accounts() -> io::Result<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for pid in process::pids()? {
        all.extend(process::accounts(pid)?.into_iter().flatten());
    }
    for kind in Kind::ALL {
        all.extend(objects(kind)?.into_iter().map(|object| object.owner));
    }
    Ok(all)
}

/// Whether a process is in the cgroup with this path, in at least one hierarchy.
pub(crate) fn is_in_group(pid: i32, group: &Path) -> io::Result<bool> {
    let text = if_there(fs::read_to_string(format!("/proc/{pid}/cgroup")))?.unwrap_or_default();
    // `id:controllers:path`. The path may have a prefix if the controller itself is in a cgroup.
    Ok(text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| Path::new(path).ends_with(group)))
}

/// Shared memory, which outlives the processes that use it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shared {
    /// A System V segment, by id.
    Segment(u64),
    /// A file of /dev/shm.
    File(PathBuf),
}

impl Shared {
    /// Shared memory that a process has mapped.
    pub(crate) fn of(process: ProcessId) -> io::Result<Vec<Self>> {
        let maps = if_visible(fs::read(format!("/proc/{}/maps", process.pid)))?.unwrap_or_default();
        let maps = String::from_utf8_lossy(&maps);
        let mut mapped: Vec<Self> = maps.lines().filter_map(Self::parse).collect();
        mapped.sort();
        mapped.dedup();
        Ok(mapped)
    }

    /// Parses a line of /proc/PID/maps, `range mode offset device inode name`. A segment has the name `/SYSV<key>`, and
    /// its id as inode.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let inode = fields.nth(4)?;
        let name = fields.next()?;
        if name.starts_with("/SYSV") {
            return inode.parse().ok().map(Self::Segment);
        }
        // Only files directly in /dev/shm, since a process could replace a subdirectory by a symlink.
        let is_there = Path::new(name).parent() == Some(Path::new("/dev/shm")) && fields.next().is_none();
        is_there.then(|| Self::File(name.into()))
    }
}

/// Kind of a System V object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Shared memory segment.
    Segment,
    /// Set of semaphores.
    Semaphores,
    /// Message queue.
    Queue,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Segment, Self::Semaphores, Self::Queue];

    /// Option of ipcrm(1) that removes an object by id.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::Segment => "-m",
            Self::Semaphores => "-s",
            Self::Queue => "-q",
        }
    }

    /// The kernel's table of these objects, and its columns of owner, creator's pid and number of users.
    fn table(self) -> (&'static str, usize, Option<usize>, Option<usize>) {
        match self {
            // key shmid perms size cpid lpid nattch uid ...
            Self::Segment => ("/proc/sysvipc/shm", 7, Some(4), Some(6)),
            // key semid perms nsems uid ...
            Self::Semaphores => ("/proc/sysvipc/sem", 4, None, None),
            // key msqid perms cbytes qnum lspid lrpid uid ...
            Self::Queue => ("/proc/sysvipc/msg", 7, None, None),
        }
    }
}

/// A System V object. It outlives the processes that use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    /// User id of the owner.
    pub(crate) owner: u32,
    /// Pid of the process that created it, if known. It may have ended.
    pub(crate) maker: Option<i32>,
    /// Number of processes that have it attached, if known.
    pub(crate) users: Option<u64>,
}

/// All System V objects of a kind.
pub(crate) fn objects(kind: Kind) -> io::Result<Vec<Object>> {
    // The table is absent if the kernel has no System V IPC.
    let table = if_there(fs::read_to_string(kind.table().0))?.unwrap_or_default();
    Ok(table.lines().skip(1).filter_map(|line| Object::parse(kind, line)).collect())
}

impl Object {
    fn parse(kind: Kind, line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, owner, maker, users) = kind.table();
        Some(Self {
            kind,
            id: fields.get(1)?.parse().ok()?,
            owner: fields.get(owner)?.parse().ok()?,
            maker: maker.and_then(|column| fields.get(column)?.parse().ok()),
            users: users.and_then(|column| fields.get(column)?.parse().ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waiting for processes takes none of tokio's threads for blocking work, which logins and locks need.
    #[test]
    fn those_who_are_watched_take_no_thread_of_the_runtime() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let me = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap().unwrap();
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
        let me = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap().unwrap();
        let all = processes().unwrap();
        let found = all.iter().find(|process| process.id == me).unwrap();
        assert_eq!(found.directory.as_deref(), Some(std::env::current_dir().unwrap().as_path()));
        assert_eq!(found.program, std::env::current_exe().ok());
        assert_eq!(found.accounts, BTreeSet::from([nix::unistd::geteuid().as_raw()]));
        assert!(processes_of(nix::unistd::geteuid().as_raw()).unwrap().contains(&me));
        assert_eq!(ProcessId::of(0).unwrap(), None);
    }

    #[test]
    fn reads_shared_memory_from_maps_and_tables() {
        let segment = "7f00-7f01 rw-s 00000000 00:01 32769                      /SYSV0052e2c1 (deleted)";
        assert_eq!(Shared::parse(segment), Some(Shared::Segment(32769)));
        let file = "7f00-7f01 rw-s 00000000 00:18 5                             /dev/shm/PostgreSQL.123";
        assert_eq!(Shared::parse(file), Some(Shared::File("/dev/shm/PostgreSQL.123".into())));
        assert_eq!(Shared::parse("7f00-7f01 rw-s 00000000 00:18 5 /dev/shm/gone (deleted)"), None);
        assert_eq!(Shared::parse("7f00-7f01 rw-s 00000000 00:18 5 /dev/shm/e/d/precious"), None);
        assert_eq!(Shared::parse("7f00-7f01 rw-p 00000000 00:00 0"), None);
        assert_eq!(Shared::parse("7f00-7f01 r-xp 00000000 08:01 12 /usr/bin/true"), None);
        let row = "   5432001      32769   600                    56  1234  1300      0  999  995";
        let segment = Object { kind: Kind::Segment, id: 32769, owner: 999, maker: Some(1234), users: Some(0) };
        assert_eq!(Object::parse(Kind::Segment, row), Some(segment));
        let row = "         0          3   600          1   999   995   999   995  1700000000          0";
        let semaphores = Object { kind: Kind::Semaphores, id: 3, owner: 999, maker: None, users: None };
        assert_eq!(Object::parse(Kind::Semaphores, row), Some(semaphores));
    }
}
