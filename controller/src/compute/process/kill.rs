//! Ends a host: kills all its processes and removes the shared memory that they leave.

#![allow(clippy::disallowed_methods, reason = "the agent's own directory, and shared memory right in /dev/shm")]

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::Instant;
use trove_strategy::process::if_there;

use super::cgroup::{self, Held};
use super::host::Hosts;
use super::system::{self, Kind, Object, Process, ProcessId, Shared};
use crate::ids::InstanceId;

/// How long to wait for killed processes. One that takes longer is stuck in the kernel.
const LONGEST_DYING: Duration = Duration::from_secs(20);
/// Pause before another try to kill.
const NEXT_ROUND: Duration = Duration::from_millis(50);
/// Time limit for the removal of one System V object.
const LONGEST_REMOVAL: Duration = Duration::from_secs(5);

/// Asks an agent to stop its engine and end, and waits for at most `deadline`.
pub(super) async fn interrupt(agent: ProcessId, deadline: Duration) -> io::Result<()> {
    if let Some(handle) = agent.open()? {
        handle.send(Signal::INT)?;
        // The caller kills an agent that does not end in time.
        let _ = tokio::time::timeout(deadline, handle.ended()).await;
    }
    Ok(())
}

impl Hosts {
    /// Kills every process of a host, waits until none is left, and removes their shared memory.
    pub(super) async fn kill_all(&self, instance: InstanceId) -> io::Result<()> {
        let mut killed = BTreeSet::new();
        killed.extend(self.recorded_engine(instance)?);
        let mut shared = BTreeSet::new();
        let account = self.account(instance)?;
        let groups = self.groups(instance);
        // If the engine has no account of its own, note which shared memory each process uses before it is killed.
        let note = |process: &ProcessId| {
            killed.insert(process.pid);
            shared.extend(if account.is_none() { Shared::of(*process)? } else { Vec::new() });
            Ok(())
        };
        end(&groups, || self.processes(instance, account), note).await?;
        match account {
            // Only hosts of older versions leave objects here; the others have an IPC namespace, which ends with them.
            Some(uid) => remove_objects(|object| object.owner == uid).await,
            None => remove_shared(&shared, &killed).await,
        }
    }

    /// All processes of a host: the members of its cgroups and the processes of its account. Without cgroups, those
    /// whose working directory is the host's and their descendants. (Backends of engines lead sessions of their own and
    /// outlive their parent.)
    fn processes(&self, instance: InstanceId, account: Option<u32>) -> io::Result<Vec<ProcessId>> {
        let mut found = match &self.cgroups {
            Some(_) => {
                let mut found: Vec<ProcessId> = self.find_agent(instance)?.into_iter().collect();
                for group in self.groups(instance) {
                    found.extend(cgroup::members(&group)?);
                }
                found
            }
            None => self.processes_in_directories(instance)?,
        };
        found.extend(account.map(system::processes_of).transpose()?.into_iter().flatten());
        let mut members: BTreeSet<i32> = BTreeSet::new();
        found.retain(|process| members.insert(process.pid));
        Ok(found)
    }

    fn processes_in_directories(&self, instance: InstanceId) -> io::Result<Vec<ProcessId>> {
        let (directory, run) = (self.directory(instance), self.run_directory(instance));
        let all = system::processes()?;
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let works =
            |process: &Process, place: &Path| process.directory.as_ref().is_some_and(|cwd| cwd.starts_with(place));
        let mut found: Vec<&Process> = all
            .iter()
            .filter(|process| process.id.pid != own && !process.has_terminal)
            .filter(|process| works(process, &directory) || works(process, &run))
            .collect();
        loop {
            let pids: BTreeSet<i32> = found.iter().map(|process| process.id.pid).collect();
            let more: Vec<&Process> = all
                .iter()
                .filter(|process| pids.contains(&process.parent) && !pids.contains(&process.id.pid))
                .collect();
            if more.is_empty() {
                return Ok(found.into_iter().map(|process| process.id).collect());
            }
            found.extend(more);
        }
    }

    /// Pid of the engine that the agent started last. It may have crashed and still have a shared memory segment.
    fn recorded_engine(&self, instance: InstanceId) -> io::Result<Option<i32>> {
        let text = if_there(std::fs::read(self.directory(instance).join("agent/engine.json")))?;
        // The file may be incomplete.
        let value: Option<serde_json::Value> = text.and_then(|text| serde_json::from_slice(&text).ok());
        Ok(value.and_then(|value| i32::try_from(value["pid"].as_i64()?).ok()))
    }
}

/// Kills all processes of an account; `groups` are its cgroups.
pub(super) async fn strike(uid: u32, groups: &[PathBuf]) -> io::Result<()> {
    end(groups, || system::processes_of(uid), |_| Ok(())).await
}

/// Kills the processes in `groups` and those that `look` finds, until none is left. Root sends the signals one by one.
/// A helper process of the account could kill all in one call, kill(-1), but the processes of the account could stop or
/// kill it first.
async fn end(
    groups: &[PathBuf],
    look: impl Fn() -> io::Result<Vec<ProcessId>>,
    mut note: impl FnMut(&ProcessId) -> io::Result<()>,
) -> io::Result<()> {
    let deadline = Instant::now() + LONGEST_DYING;
    // No process in the cgroups can fork any more, so the search misses none.
    let _held = Held::new(groups);
    loop {
        let alive = look()?;
        if alive.is_empty() {
            return Ok(());
        }
        alive.iter().try_for_each(&mut note)?;
        let failed = kill(&alive);
        for process in alive {
            let Some(handle) = process.open()? else { continue };
            if tokio::time::timeout_at(deadline, handle.ended()).await.is_err() {
                break;
            }
        }
        if Instant::now() >= deadline {
            return Err(failed.unwrap_or_else(|| io::Error::other("a killed process does not end")));
        }
        if failed.is_some() {
            tokio::time::sleep(NEXT_ROUND).await;
        }
    }
}

/// Sends SIGKILL to all of them. Returns the last error.
fn kill(processes: &[ProcessId]) -> Option<io::Error> {
    let kill = |process: &ProcessId| process.open()?.map_or(Ok(()), |handle| handle.send(Signal::KILL));
    processes.iter().filter_map(|process| kill(process).err()).reduce(|_, last| last)
}

/// Removes shared memory that was made or used by the given processes. For engines that share an account.
async fn remove_shared(shared: &BTreeSet<Shared>, makers: &BTreeSet<i32>) -> io::Result<()> {
    let is_theirs = |object: &Object| {
        let was_theirs = object.maker.is_some_and(|maker| makers.contains(&maker))
            || (object.kind == Kind::Segment && shared.contains(&Shared::Segment(object.id)));
        object.users == Some(0) && was_theirs
    };
    remove_objects(is_theirs).await?;
    for file in shared {
        if let Shared::File(path) = file
            && !is_mapped(file)?
        {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Removes the System V objects that `are_meant` selects.
async fn remove_objects(are_meant: impl Fn(&Object) -> bool) -> io::Result<()> {
    let mut objects = Vec::new();
    for kind in Kind::ALL {
        objects.extend(system::objects(kind)?.into_iter().filter(|object| are_meant(object)));
    }
    for object in objects {
        let mut command = removal(&object);
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        // The exit status is ignored: the object may be gone already.
        let removed = tokio::time::timeout(LONGEST_REMOVAL, command.status()).await;
        removed.map_err(|_| io::Error::other("the removal of a System V object takes too long"))??;
    }
    Ok(())
}

/// The command ipcrm(1). If run by root, its effective user id is that of the owner, so that it cannot remove an object
/// of another account that has got this id meanwhile; its real user id is root's, so that processes of the owner cannot
/// trace it.
fn removal(object: &Object) -> Command {
    let target = [object.kind.option().to_owned(), object.id.to_string()];
    if !nix::unistd::geteuid().is_root() {
        let mut command = Command::new("ipcrm");
        command.args(target);
        return command;
    }
    let mut command = Command::new("setpriv");
    command.args(["--no-new-privs", "--clear-groups", "--ruid=0", "--rgid=0"]);
    command.args([format!("--euid={}", object.owner), format!("--egid={}", object.owner)]);
    command.args(["--", "setsid", "--wait", "ipcrm"]).args(target);
    command
}

/// Whether any process still maps the file.
fn is_mapped(file: &Shared) -> io::Result<bool> {
    for process in system::processes()? {
        if Shared::of(process.id)?.contains(file) {
            return Ok(true);
        }
    }
    Ok(false)
}
