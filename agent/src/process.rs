//! The engine's process. It runs in a session of its own, so that it survives the agent; a new agent finds it again and
//! watches it through a pidfd.

#![allow(
    clippy::disallowed_methods,
    reason = "/proc, the system's programs, and the log, whose directory is the agent's alone"
)]

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use trove_strategy::process::{self, Stat, if_visible};
use trove_strategy::{Owner, RealHost, Signal as Stop, StartSpec, Trusted};

/// Pause after a failed search for processes.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Identifies a process across restarts of the agent. The pid alone does not, since pids are reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub pid: i32,
    /// Start time, clock ticks since boot (proc(5), field 22 of stat).
    pub started: u64,
}

/// The engine's main process; it may have ended.
pub struct Process {
    pub mark: Mark,
    gone: watch::Receiver<bool>,
    /// Must be reaped by this agent. `None` if an earlier agent started the process.
    child: Option<Child>,
    /// As long as this is held, the strategies connect to the process; see [`RealHost::trust`].
    trusted: Option<Trusted>,
}

impl Mark {
    /// The mark of the process that has this pid now.
    pub(crate) fn of(pid: i32) -> io::Result<Option<Self>> {
        let alive = Stat::of(pid)?.filter(Stat::is_alive);
        Ok(alive.map(|stat| Self { pid, started: stat.started }))
    }

    fn kill(self) {
        if self.runs().unwrap_or(false) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }

    /// Whether this process still has a running thread. A zombie has none.
    pub fn runs(self) -> io::Result<bool> {
        Ok(Self::of(self.pid)? == Some(self))
    }
}

impl Process {
    /// Starts the engine. Its output goes to the end of `log`.
    pub fn start(spec: &StartSpec, host: &RealHost, log: &Path) -> Result<Self> {
        let output = crate::output_log::open(std::fs::File::options().create(true).append(true), log);
        let output = output.with_context(|| format!("open {}", log.display()))?;
        // setsid(1) of util-linux: a child is not the leader of a process group, so setsid does not fork and the pid
        // stays.
        let mut command = host.command(Path::new("setsid"), Owner::Engine);
        command.arg(&spec.program).args(&spec.args);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LANG", "C.UTF-8");
        command.envs(spec.env.iter().map(|(name, value)| (name, value))).current_dir("/");
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut child = command.spawn().with_context(|| format!("start {}", spec.program.display()))?;
        match Self::watch_new(&child) {
            Ok(process) => Ok(Self { child: Some(child), ..process }.trusted_by(host)),
            Err(error) => {
                // End a process that the agent cannot watch.
                let _ = child.kill().and_then(|()| child.wait());
                Err(error)
            }
        }
    }

    fn watch_new(child: &Child) -> Result<Self> {
        let pid = i32::try_from(child.id()).context("a process id")?;
        let stat = Stat::of(pid).context("look at the engine's process")?;
        Self::watch(Mark { pid, started: stat.map_or(0, |stat| stat.started) })
    }

    /// Allows strategies to connect to the process.
    #[must_use]
    pub fn trusted_by(mut self, host: &RealHost) -> Self {
        self.trusted = Some(host.trust(self.mark.pid));
        self
    }

    /// Watches a process that an earlier agent started. `None` if it no longer runs.
    pub fn adopt(mark: Mark) -> Result<Option<Self>> {
        if !mark.runs()? {
            return Ok(None);
        }
        let process = Self::watch(mark)?;
        // Check again: the pid may have been reused before the pidfd was opened.
        Ok(mark.runs()?.then_some(process))
    }

    fn watch(mark: Mark) -> Result<Self> {
        let pid = rustix::process::Pid::from_raw(mark.pid).context("a process id")?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).context("watch the engine's process")?;
        let (sender, gone) = watch::channel(false);
        // A thread blocks in poll(2), since tokio's `AsyncFd` needs unsafe code here.
        let watcher = move || {
            while let Err(Errno::INTR) = poll(&mut [PollFd::new(&fd, PollFlags::IN)], None) {}
            sender.send_replace(true);
        };
        let named = std::thread::Builder::new().name("engine-watch".to_owned()).stack_size(64 << 10);
        named.spawn(watcher).context("watch the engine's process")?;
        Ok(Self { mark, gone, child: None, trusted: None })
    }

    /// Waits for the end. Returns the exit status if this agent started the process. Cancel safe.
    pub async fn ended(&mut self) -> String {
        // An error means that the watching thread has ended, which it does when the process ends.
        let _ = self.gone.wait_for(|gone| *gone).await;
        match self.child.as_mut().map(Child::wait) {
            Some(Ok(status)) => status.to_string(),
            _ => "it ended".to_owned(),
        }
    }

    /// Sends the stop signal, waits, and kills the process after the deadline.
    pub async fn stop(&mut self, signal: Stop, deadline: Duration) {
        let signal = match signal {
            Stop::Hangup => Signal::SIGHUP,
            Stop::Interrupt => Signal::SIGINT,
            Stop::Quit => Signal::SIGQUIT,
            Stop::User1 => Signal::SIGUSR1,
            Stop::User2 => Signal::SIGUSR2,
            _ => Signal::SIGTERM,
        };
        self.send(signal);
        // A process stopped with SIGSTOP handles no signal before SIGCONT.
        self.send(Signal::SIGCONT);
        if tokio::time::timeout(deadline, self.ended()).await.is_err() {
            self.kill().await;
        }
    }

    /// Kills the process and waits for its end.
    pub async fn kill(&mut self) {
        self.send(Signal::SIGKILL);
        self.ended().await;
    }

    fn send(&self, signal: Signal) {
        // If it cannot be checked that the pid is still this process, send no signal.
        if self.mark.runs().unwrap_or(false) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(self.mark.pid), signal);
        }
    }
}

/// Recognises the processes of an engine, by their account and by the files and cgroups of this instance that they use.
/// Not by the command line, which any process can imitate.
#[derive(Clone, Debug)]
pub struct Signs {
    /// Account of the engine.
    uid: u32,
    /// Whether the account is used by this instance only.
    is_its_own: bool,
    /// Data directory of the engine.
    data: PathBuf,
    /// Log file of the engine.
    log: PathBuf,
    /// cgroups of the engine; empty if it is in those of the agent.
    groups: Vec<PathBuf>,
}

impl Signs {
    pub fn new(host: &RealHost, data: &Path, log: &Path) -> Self {
        let is_its_own = host.engine.uid != host.agent.uid;
        let groups = host.engine_groups().to_vec();
        Self { uid: host.engine.uid.as_raw(), is_its_own, data: data.to_owned(), log: log.to_owned(), groups }
    }

    /// Whether a recorded process still belongs to the engine. The mark alone is not enough: after a restart of the
    /// machine, another process may have the same pid and the same time since boot.
    pub fn fit(&self, mark: Mark) -> io::Result<bool> {
        Ok(mark.runs()? && self.has_account(mark.pid)? && self.is_member(mark.pid)?)
    }

    /// All processes of the engine and of a tenant's shell in it, without zombies. Where other instances have the same
    /// account, only those whose working directory is in the data directory.
    pub fn all(&self) -> io::Result<Vec<Mark>> {
        let works =
            |pid: i32| Ok::<_, io::Error>(process::directory(pid)?.is_some_and(|cwd| cwd.starts_with(&self.data)));
        let mut found = Vec::new();
        for pid in process::pids()? {
            if self.has_account(pid)? && (self.is_its_own || works(pid)?) {
                found.extend(Mark::of(pid)?);
            }
        }
        Ok(found)
    }

    pub fn uid(&self) -> u32 {
        self.uid
    }

    pub fn groups(&self) -> &[PathBuf] {
        &self.groups
    }

    /// Like [`Signs::all`], but cheaper where the engine has cgroups: their members. A process of root may be among
    /// them for an instant, before it has taken the engine's account.
    pub fn members(&self) -> io::Result<BTreeSet<i32>> {
        let mut found = BTreeSet::new();
        for group in &self.groups {
            found.extend(process::members(group)?);
        }
        if found.is_empty() {
            // The engine has no cgroups, or they are not visible from this mount namespace.
            found.extend(self.all()?.into_iter().map(|mark| mark.pid));
        }
        Ok(found)
    }

    /// Finds the engine's main process if the agent crashed before it recorded it. That process runs the program, leads
    /// a session, writes to the instance's log, is in the engine's cgroups, and its parent runs another program. A
    /// tenant can imitate this, but only later; so the oldest such process is returned.
    pub fn started(&self, spec: &StartSpec) -> io::Result<Option<Mark>> {
        let Some(program) = if_visible(std::fs::canonicalize(&spec.program))? else { return Ok(None) };
        let Some(log) = file(&self.log)? else { return Ok(None) };
        let is_it = |pid: i32| {
            if !self.has_account(pid)? || !runs_program(pid, &program)? {
                return Ok(false);
            }
            let Some(stat) = Stat::of(pid)? else { return Ok(false) };
            Ok::<_, io::Error>(
                stat.session == pid
                    && !runs_program(stat.parent, &program)?
                    && file(Path::new(&format!("/proc/{pid}/fd/2")))? == Some(log)
                    && self.is_member(pid)?,
            )
        };
        let mut found = Vec::new();
        for pid in process::pids()? {
            if is_it(pid)? {
                found.extend(Mark::of(pid)?);
            }
        }
        Ok(found.into_iter().min_by_key(|mark| mark.started))
    }

    /// Waits until no process of the engine is left. Those that run another program would never end and are killed at
    /// once; the others are killed after the deadline.
    pub async fn await_none(&self, spec: &StartSpec, deadline: Duration) {
        let program = std::fs::canonicalize(&spec.program).unwrap_or_else(|_| spec.program.clone());
        let mut end = tokio::time::Instant::now() + deadline;
        loop {
            let mut process = match self.first_left(&program) {
                Ok(None) => return,
                Ok(Some(process)) => process,
                Err(error) => {
                    // Some may still run, so try again.
                    tracing::warn!("the engine's processes cannot be looked for: {error:#}");
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
            };
            if tokio::time::timeout_at(end, process.ended()).await.is_err() {
                self.groups.iter().for_each(|group| process::kill_members(group));
                self.all().into_iter().flatten().for_each(Mark::kill);
                end = tokio::time::Instant::now() + deadline;
            }
        }
    }

    /// Kills what does not run the engine's program, and returns one of the processes that are left.
    fn first_left(&self, program: &Path) -> Result<Option<Process>> {
        loop {
            let left = self.all()?;
            for mark in &left {
                if self.is_its_own && !runs_program(mark.pid, program)? {
                    mark.kill();
                }
            }
            let is_none_left = left.is_empty();
            for mark in left {
                if let Some(process) = Process::adopt(mark)? {
                    return Ok(Some(process));
                }
            }
            if is_none_left {
                return Ok(None);
            }
            // All of them have just ended, but they may have forked others before: search again.
        }
    }

    /// Whether the process is in the engine's cgroups.
    fn is_member(&self, pid: i32) -> io::Result<bool> {
        if self.groups.is_empty() {
            return Ok(cgroup(pid)? == cgroup_of_own()?);
        }
        // One of them is enough, since only root can move a process out of it. An older controller used fewer cgroup
        // hierarchies.
        for group in &self.groups {
            if process::members(group)?.contains(&pid) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether all user ids of the process are the engine's account.
    fn has_account(&self, pid: i32) -> io::Result<bool> {
        Ok(process::accounts(pid)?.is_some_and(|accounts| accounts.iter().eq([&self.uid])))
    }
}

fn runs_program(pid: i32, program: &Path) -> io::Result<bool> {
    Ok(process::program(pid)?.is_some_and(|runs| runs == program))
}

/// Device and inode of a file, which are the same under each of its names.
fn file(path: &Path) -> io::Result<Option<(u64, u64)>> {
    use std::os::unix::fs::MetadataExt;
    Ok(if_visible(std::fs::metadata(path))?.map(|facts| (facts.dev(), facts.ino())))
}

fn cgroup(pid: i32) -> io::Result<Option<String>> {
    if_visible(std::fs::read_to_string(format!("/proc/{pid}/cgroup")))
}

fn cgroup_of_own() -> io::Result<Option<String>> {
    if_visible(std::fs::read_to_string("/proc/self/cgroup"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_its_first_thread_runs_and_a_zombie_does_not() {
        let script = "import ctypes, os, platform, threading, time\n\
                      threading.Thread(target=time.sleep, args=(60,)).start()\n\
                      ctypes.CDLL(None).syscall(60 if platform.machine() == 'x86_64' else 93, 0)";
        let mut child = std::process::Command::new("python3").args(["-c", script]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while Stat::of(pid).unwrap().is_none_or(|stat| stat.state != b'Z') {
            assert!(std::time::Instant::now() < until, "its first thread does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mark = Mark::of(pid).unwrap().expect("a thread of it runs");
        mark.kill();
        while mark.runs().unwrap() {
            assert!(std::time::Instant::now() < until, "it is not killed");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(Stat::of(pid).unwrap().map(|stat| stat.state), Some(b'Z'));
        child.wait().unwrap();
        assert_eq!(Mark::of(pid).unwrap(), None);
    }
}
