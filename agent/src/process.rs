//! The engine's process: started in a session of its own so that it outlives the agent, found again, watched through a
//! pidfd, stopped.

use std::path::{Path, PathBuf};
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
use trove_strategy::{Owner, RealHost, StartSpec, StopSignal, Trusted};

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
    /// While this lives the agent talks to it.
    trusted: Option<Trusted>,
}

/// Fields of `/proc/<pid>/stat` after the name.
struct Stat {
    state: char,
    parent: i32,
    session: i32,
    started: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

impl Mark {
    fn of(pid: i32) -> Option<Self> {
        let stat = stat(pid)?;
        (stat.state != 'Z' && stat.state != 'X').then_some(Self { pid, started: stat.started })
    }

    fn kill(self) {
        if self.runs() {
            // Gone already is as good.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
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
        let mark = Mark { pid, started: stat(pid).map_or(0, |stat| stat.started) };
        Ok(Self::watch(mark, Some(child))?.trusted_by(host))
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
        Ok(Self { mark, gone, child, trusted: None })
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
}

impl Signs {
    /// Of the engine with this data and output.
    pub fn new(host: &RealHost, data: &Path, log: &Path) -> Self {
        let is_its_own = host.engine.uid != host.agent.uid;
        Self { uid: host.engine.uid.as_raw(), is_its_own, data: data.to_owned(), log: log.to_owned() }
    }

    /// Whether a process that was written down is the engine's still: an id is used again, after a restart of the
    /// machine at the same time since its start.
    pub fn fit(&self, mark: Mark) -> bool {
        mark.runs() && self.has_account(mark.pid) && cgroup(mark.pid) == cgroup_of_own()
    }

    /// Every process of the engine and of whoever has a shell in it, also those that outlived their parent; where other
    /// instances have the same account, those that work below the data. Zombies do not count.
    pub fn all(&self) -> Vec<Mark> {
        let works = |pid: &i32| {
            let cwd = std::fs::read_link(format!("/proc/{pid}/cwd"));
            cwd.is_ok_and(|cwd| cwd.starts_with(&self.data))
        };
        let is_one = |pid: &i32| self.has_account(*pid) && (self.is_its_own || works(pid));
        pids().into_iter().filter(is_one).filter_map(Mark::of).collect()
    }

    /// The engine that was started with this program, for when a crash came before it was written down: it leads a session,
    /// writes to the instance's log, is in the agent's cgroup, and no process of the same program has started it. The first
    /// such, since tenants come after it.
    pub fn started(&self, spec: &StartSpec) -> Option<Mark> {
        let program = std::fs::canonicalize(&spec.program).ok()?;
        let log = file(&self.log)?;
        let is_it = |pid: &i32| {
            self.has_account(*pid)
                && runs_program(*pid, &program)
                && stat(*pid).is_some_and(|stat| stat.session == *pid && !runs_program(stat.parent, &program))
                && file(Path::new(&format!("/proc/{pid}/fd/2"))) == Some(log)
                && cgroup(*pid) == cgroup_of_own()
        };
        pids().into_iter().filter(is_it).filter_map(Mark::of).min_by_key(|mark| mark.started)
    }

    /// Waits until none is left. What is not the engine's program is killed at once, since it would never end by itself; the
    /// rest after the deadline.
    pub async fn await_none(&self, spec: &StartSpec, deadline: Duration) {
        let program = std::fs::canonicalize(&spec.program).unwrap_or_else(|_| spec.program.clone());
        let mut end = tokio::time::Instant::now() + deadline;
        loop {
            let left = self.all();
            let Some(mark) = left.first().copied() else { return };
            for stranger in left.iter().filter(|mark| self.is_its_own && !runs_program(mark.pid, &program)) {
                stranger.kill();
            }
            // One that cannot be watched has just gone.
            let Ok(Some(mut process)) = Process::adopt(mark) else { continue };
            if tokio::time::timeout_at(end, process.ended()).await.is_err() {
                self.all().into_iter().for_each(Mark::kill);
                end = tokio::time::Instant::now() + deadline;
            }
        }
    }

    /// Whether it can act as the engine's account and as no other.
    fn has_account(&self, pid: i32) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        let uids: Vec<u32> = uids.split_ascii_whitespace().filter_map(|uid| uid.parse().ok()).collect();
        !uids.is_empty() && uids.iter().all(|uid| *uid == self.uid)
    }
}

fn pids() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect()
}

/// Whether a process runs this program, also when its file was replaced meanwhile.
fn runs_program(pid: i32, program: &Path) -> bool {
    let Ok(exe) = std::fs::read_link(format!("/proc/{pid}/exe")) else { return false };
    let exe = exe.as_os_str().as_encoded_bytes();
    exe.strip_suffix(b" (deleted)").unwrap_or(exe) == program.as_os_str().as_encoded_bytes()
}

/// Which file that is, whatever it is called.
fn file(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|facts| (facts.dev(), facts.ino()))
}

fn cgroup(pid: i32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()
}

fn cgroup_of_own() -> Option<String> {
    std::fs::read_to_string("/proc/self/cgroup").ok()
}
