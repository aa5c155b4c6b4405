//! The engine's process: started in a session of its own so that it outlives the agent, found again, watched through a
//! pidfd, stopped.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use trove_strategy::{Owner, RealHost, StartSpec, StopSignal};

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
    /// Which.
    pub mark: Mark,
    gone: watch::Receiver<bool>,
    /// Ours to reap; `None` for one that an earlier agent started.
    child: Option<Child>,
}

/// Fields of `/proc/<pid>/stat` after the name: the state, and the start time.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

impl Mark {
    fn of(pid: i32) -> Option<Self> {
        let (state, started) = stat(pid)?;
        (state != 'Z' && state != 'X').then_some(Self { pid, started })
    }

    /// Whether this very process runs; a zombie does not.
    pub fn runs(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

impl Process {
    /// Starts the engine. Its output goes to the end of `log`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(spec: &StartSpec, host: &RealHost, log: &Path) -> Result<Self> {
        let output = std::fs::File::options().create(true).append(true).open(log);
        let output = output.with_context(|| format!("open {}", log.display()))?;
        // util-linux: as a child that leads no group, setsid replaces itself by the program under the same pid.
        let mut command = Command::new("setsid");
        command.arg(&spec.program).args(&spec.args);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LANG", "C.UTF-8");
        command.envs(spec.env.iter().map(|(name, value)| (name, value))).current_dir("/");
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        host.become_owner(&mut command, Owner::Engine);
        let child = command.spawn().with_context(|| format!("start {}", spec.program.display()))?;
        let pid = i32::try_from(child.id()).context("a process id")?;
        let mark = Mark { pid, started: stat(pid).map_or(0, |(_, started)| started) };
        Self::watch(mark, Some(child))
    }

    /// Takes over one that runs already, or `None` when it does not.
    ///
    /// # Errors
    /// It runs and cannot be watched.
    pub fn adopt(mark: Mark) -> Result<Option<Self>> {
        if !mark.runs() {
            return Ok(None);
        }
        let process = Self::watch(mark, None)?;
        // The descriptor is for whoever had the pid when it was opened.
        Ok(mark.runs().then_some(process))
    }

    fn watch(mark: Mark, child: Option<Child>) -> Result<Self> {
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
        Ok(Self { mark, gone, child })
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
    pub async fn stop(&mut self, signal: StopSignal, deadline: Duration) {
        let signal = match signal {
            StopSignal::Interrupt => Signal::SIGINT,
            StopSignal::Terminate => Signal::SIGTERM,
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
        if self.mark.runs() {
            // It may end at this very moment, which is what is wanted.
            let _ = kill(Pid::from_raw(self.mark.pid), signal);
        }
    }
}

/// Processes that work below `directory`: an engine's own, also those that outlived their parent. Zombies do not count.
pub fn working_in(directory: &Path) -> Vec<Mark> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
    let works = |pid: &i32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
    pids.filter(works).filter_map(Mark::of).collect()
}

/// A process that was started by exactly this specification, for when a crash came before it was written down.
pub fn started_by(spec: &StartSpec) -> Option<Mark> {
    let mut wanted = spec.program.as_os_str().as_encoded_bytes().to_vec();
    wanted.push(0);
    for arg in &spec.args {
        wanted.extend_from_slice(arg.as_bytes());
        wanted.push(0);
    }
    let entries = std::fs::read_dir("/proc").ok()?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
    let same = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|cmdline| cmdline == wanted);
    pids.filter(same).find_map(Mark::of)
}

/// Waits until no process works below the directory; after the deadline what is left is killed.
pub async fn await_none_in(directory: &Path, deadline: Duration) {
    let mut end = tokio::time::Instant::now() + deadline;
    while let Some(mark) = working_in(directory).first().copied() {
        // One that cannot be watched has just gone.
        let Ok(Some(mut process)) = Process::adopt(mark) else { continue };
        if tokio::time::timeout_at(end, process.ended()).await.is_err() {
            for left in working_in(directory) {
                // Gone already is as good.
                let _ = kill(Pid::from_raw(left.pid), Signal::SIGKILL);
            }
            end = tokio::time::Instant::now() + deadline;
        }
    }
}
