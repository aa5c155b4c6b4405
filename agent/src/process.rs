//! The engine's process: started in a session of its own so that it outlives the agent, found again, watched through a
//! pidfd, stopped.

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

/// How soon it is looked again for what could not be seen.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What is written down of a process, enough to know it again: a pid alone may be another's by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Process id.
    pub pid: i32,
    /// Start time, clock ticks since boot (proc(5), field 22 of stat).
    pub started: u64,
}

/// A process that runs, or has just ended.
pub struct Process {
    pub mark: Mark,
    gone: watch::Receiver<bool>,
    /// Ours to reap; `None` for one that an earlier agent started.
    child: Option<Child>,
    /// While this lives the agent talks to it.
    trusted: Option<Trusted>,
}

impl Mark {
    /// Of what runs under this number.
    pub(crate) fn of(pid: i32) -> io::Result<Option<Self>> {
        let alive = Stat::of(pid)?.filter(Stat::is_alive);
        Ok(alive.map(|stat| Self { pid, started: stat.started }))
    }

    fn kill(self) {
        if self.runs().unwrap_or(false) {
            // Gone already is as good.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }

    /// Whether this very process runs, at least one thread of it; a zombie does not.
    ///
    /// # Errors
    /// It could not be looked.
    pub fn runs(self) -> io::Result<bool> {
        Ok(Self::of(self.pid)? == Some(self))
    }
}

impl Process {
    /// Starts the engine. Its output goes to the end of `log`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(spec: &StartSpec, host: &RealHost, log: &Path) -> Result<Self> {
        let output = crate::engine_log::open(std::fs::File::options().create(true).append(true), log);
        let output = output.with_context(|| format!("open {}", log.display()))?;
        // util-linux: as a child that leads no group, setsid replaces itself by the program under the same pid.
        let mut command = host.command(Path::new("setsid"), Owner::Engine);
        command.arg(&spec.program).args(&spec.args);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LANG", "C.UTF-8");
        command.envs(spec.env.iter().map(|(name, value)| (name, value))).current_dir("/");
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut child = command.spawn().with_context(|| format!("start {}", spec.program.display()))?;
        match Self::watch_new(&child) {
            Ok(process) => Ok(Self { child: Some(child), ..process }.trusted_by(host)),
            Err(error) => {
                // One that nobody would know must not live.
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

    /// The agent talks to it from now on.
    #[must_use]
    pub fn trusted_by(mut self, host: &RealHost) -> Self {
        self.trusted = Some(host.trust(self.mark.pid));
        self
    }

    /// Takes over one that runs already, or `None` when it does not.
    ///
    /// # Errors
    /// It runs and cannot be watched.
    pub fn adopt(mark: Mark) -> Result<Option<Self>> {
        if !mark.runs()? {
            return Ok(None);
        }
        let process = Self::watch(mark)?;
        // The descriptor is for whoever had the pid when it was opened.
        Ok(mark.runs()?.then_some(process))
    }

    fn watch(mark: Mark) -> Result<Self> {
        let pid = rustix::process::Pid::from_raw(mark.pid).context("a process id")?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).context("watch the engine's process")?;
        let (sender, gone) = watch::channel(false);
        // A thread that sleeps in the kernel: the runtime's own way to watch a descriptor is unsafe to call.
        let watcher = move || {
            while let Err(Errno::INTR) = poll(&mut [PollFd::new(&fd, PollFlags::IN)], None) {}
            sender.send_replace(true);
        };
        let named = std::thread::Builder::new().name("engine-watch".to_owned()).stack_size(64 << 10);
        named.spawn(watcher).context("watch the engine's process")?;
        Ok(Self { mark, gone, child: None, trusted: None })
    }

    /// Waits until it has ended, and says how where that can be known. May be dropped and called again.
    pub async fn ended(&mut self) -> String {
        // The only error is that the watching thread is gone, which it is when the process is.
        let _ = self.gone.wait_for(|gone| *gone).await;
        match self.child.as_mut().map(Child::wait) {
            Some(Ok(status)) => status.to_string(),
            _ => "it ended".to_owned(),
        }
    }

    /// Asks it to stop and waits; kills it after the deadline.
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
        // One that was stopped by a signal would not hear it.
        self.send(Signal::SIGCONT);
        if tokio::time::timeout(deadline, self.ended()).await.is_err() {
            self.kill().await;
        }
    }

    /// Kills it.
    pub async fn kill(&mut self) {
        self.send(Signal::SIGKILL);
        self.ended().await;
    }

    fn send(&self, signal: Signal) {
        // Where it cannot be looked whose the pid is, nobody is hit.
        if self.mark.runs().unwrap_or(false) {
            // It may end at this very moment, which is what is wanted.
            let _ = kill(Pid::from_raw(self.mark.pid), signal);
        }
    }
}

/// How the processes of an engine are told from all others: by their account, and by what of this instance they use. Not by
/// their command line, which anybody can imitate.
#[derive(Clone, Debug)]
pub struct Signs {
    /// The engine's account.
    uid: u32,
    /// Whether all processes of that account are of this instance.
    is_its_own: bool,
    /// The engine's data.
    data: PathBuf,
    /// What the engine's output goes to.
    log: PathBuf,
    /// The control groups of the engine; none where it shares the agent's.
    groups: Vec<PathBuf>,
}

impl Signs {
    /// Of the engine with this data and output.
    pub fn new(host: &RealHost, data: &Path, log: &Path) -> Self {
        let is_its_own = host.engine.uid != host.agent.uid;
        let groups = host.engine_groups().to_vec();
        Self { uid: host.engine.uid.as_raw(), is_its_own, data: data.to_owned(), log: log.to_owned(), groups }
    }

    /// Whether a process that was written down is the engine's still: an id is used again, after a restart of the
    /// machine at the same time since its start.
    ///
    /// # Errors
    /// It could not be looked.
    pub fn fit(&self, mark: Mark) -> io::Result<bool> {
        Ok(mark.runs()? && self.has_account(mark.pid)? && self.is_member(mark.pid)?)
    }

    /// Every process of the engine and of whoever has a shell in it, also those that outlived their parent; where other
    /// instances have the same account, those that work below the data. Zombies do not count.
    ///
    /// # Errors
    /// It could not be looked.
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

    /// The account's number.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The same at little cost, where the engine has control groups: their members, among which root may be for an instant.
    ///
    /// # Errors
    /// It could not be looked.
    pub fn members(&self) -> io::Result<BTreeSet<i32>> {
        let mut found = BTreeSet::new();
        for group in &self.groups {
            found.extend(process::members(group)?);
        }
        if found.is_empty() {
            // No groups, or none that may be seen from here.
            found.extend(self.all()?.into_iter().map(|mark| mark.pid));
        }
        Ok(found)
    }

    /// The engine that was started with this program, for when a crash came before it was written down: it leads a session,
    /// writes to the instance's log, is in the engine's cgroups, and no process of the same program has started it. The first
    /// such, since tenants come after it.
    ///
    /// # Errors
    /// It could not be looked.
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

    /// Waits until none is left. What is not the engine's program is killed at once, since it would never end by itself; the
    /// rest after the deadline.
    pub async fn await_none(&self, spec: &StartSpec, deadline: Duration) {
        let program = std::fs::canonicalize(&spec.program).unwrap_or_else(|_| spec.program.clone());
        let mut end = tokio::time::Instant::now() + deadline;
        loop {
            let mut process = match self.first_left(&program) {
                Ok(None) => return,
                Ok(Some(process)) => process,
                Err(error) => {
                    // Until it is seen that none is left, some may be.
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

    /// One of those that are left, once what is not the engine's program is killed.
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
            // All have just gone, but may have made others before.
        }
    }

    /// Whether it is where the engine is.
    fn is_member(&self, pid: i32) -> io::Result<bool> {
        if self.groups.is_empty() {
            return Ok(cgroup(pid)? == cgroup_of_own()?);
        }
        // In one is enough, since nobody leaves what root has put him into: a controller of before had fewer hierarchies.
        for group in &self.groups {
            if process::members(group)?.contains(&pid) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether it can act as the engine's account and as no other.
    fn has_account(&self, pid: i32) -> io::Result<bool> {
        Ok(process::accounts(pid)?.is_some_and(|accounts| accounts.iter().eq([&self.uid])))
    }
}

/// Whether a process runs this program.
fn runs_program(pid: i32, program: &Path) -> io::Result<bool> {
    Ok(process::program(pid)?.is_some_and(|runs| runs == program))
}

/// Which file that is, whatever it is called.
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
