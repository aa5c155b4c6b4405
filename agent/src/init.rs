//! `trove-agent init`: the first process (PID 1) of a container. It starts the agent, and starts it again when it ends,
//! with a growing delay; the engine, which then belongs to this process, lives on, and the next agent adopts it. It reaps
//! whatever ends. SIGTERM, which is how containers are stopped, ends the engine in an orderly way.
//!
//! It does so little that it has no reason to end: the kernel kills all processes of a container with the first one.

#![allow(clippy::disallowed_methods, reason = "the agent's own program")]

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};
use trove_strategy::process::{self, Stat};

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(30);
/// After an agent ran this long, the next restart has the shortest delay again.
const LONG_LIFE: Duration = Duration::from_secs(60);
/// Time for processes that the agent has not ended.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(config: &Path) -> Result<()> {
    // The first process of a container gets orphans in any case; another one, as in tests, has to ask for them.
    nix::sys::prctl::set_child_subreaper(true).context("become the parent of orphans")?;
    let mut told = Told {
        children: signal(SignalKind::child())?,
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
    };
    let mut delay = FIRST_DELAY;
    loop {
        let begun = Instant::now();
        let how = match start(config) {
            Ok(agent) => match told.agents_end(agent).await {
                Some(how) => how,
                None => return told.end(Some(agent)).await,
            },
            Err(error) => format!("{error:#}"),
        };
        delay = if begun.elapsed() > LONG_LIFE { FIRST_DELAY } else { (delay * 2).min(LAST_DELAY) };
        warn!("the agent ended and is started again: {how}");
        if told.pause(delay).await {
            return told.end(None).await;
        }
    }
}

fn start(config: &Path) -> Result<Pid> {
    // /proc/self/exe is this program even after its file was replaced.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("trove-agent").args(["run", "--config"]).arg(config).stdin(Stdio::null());
    // Reaped by its pid together with all others, hence not by the handle.
    let agent = command.spawn().context("start the agent")?;
    Ok(Pid::from_raw(i32::try_from(agent.id())?))
}

/// What this process is told.
struct Told {
    children: Signals,
    terminate: Signals,
    interrupt: Signals,
}

impl Told {
    /// Waits until the agent ends and returns how, or `None` if this process is told to end before.
    async fn agents_end(&mut self, agent: Pid) -> Option<String> {
        loop {
            // It may have ended before the first signal was waited for.
            if let Some(how) = reap(Some(agent)).how {
                return Some(how);
            }
            tokio::select! {
                _ = self.children.recv() => {}
                _ = self.terminate.recv() => return None,
                _ = self.interrupt.recv() => return None,
            }
        }
    }

    /// Waits. Returns whether this process is told to end before that.
    async fn pause(&mut self, delay: Duration) -> bool {
        let over = Instant::now() + delay;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(over) => return false,
                _ = self.children.recv() => { reap(None); }
                _ = self.terminate.recv() => return true,
                _ = self.interrupt.recv() => return true,
            }
        }
    }

    /// Has the agent stop the engine and end, and then ends what is left.
    async fn end(&mut self, agent: Option<Pid>) -> Result<()> {
        info!("told to end: the agent stops the engine");
        if let Some(agent) = agent {
            // It may just have ended.
            let _ = kill(agent, Signal::SIGINT);
            while reap(Some(agent)).how.is_none() {
                self.children.recv().await;
            }
        }
        let left = async {
            loop {
                for child in children()? {
                    let _ = kill(child, Signal::SIGTERM);
                }
                if reap(None).is_alone {
                    return Ok(());
                }
                tokio::select! {
                    _ = self.children.recv() => {}
                    () = sleep(FIRST_DELAY) => {}
                }
            }
        };
        timeout(LAST_WORDS, left).await.unwrap_or(Ok(()))
    }
}

/// Result of [`reap`].
struct Reaped {
    /// How the agent ended, if it did.
    how: Option<String>,
    /// Whether there is no child left.
    is_alone: bool,
}

/// Reaps all children that have ended.
fn reap(agent: Option<Pid>) -> Reaped {
    let mut how = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Reaped { how, is_alone: false },
            Ok(status) if agent.is_some() && status.pid() == agent => how = Some(format!("{status:?}")),
            Ok(_) | Err(Errno::EINTR) => {}
            // ECHILD: there is none. Then there is no agent, either.
            Err(errno) => {
                let how = how.or_else(|| agent.map(|_| errno.to_string()));
                return Reaped { how, is_alone: true };
            }
        }
    }
}

/// The children of this process.
fn children() -> Result<Vec<Pid>> {
    let own = i32::try_from(std::process::id())?;
    let mut found = Vec::new();
    for pid in process::pids().context("list processes")? {
        if Stat::of(pid)?.is_some_and(|stat| stat.parent == own) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}
