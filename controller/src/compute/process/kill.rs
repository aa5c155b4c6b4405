//! Ending a host whole: every process, and the shared memory that they leave.

#![allow(clippy::disallowed_methods, reason = "the agent's own directory, and shared memory right in /dev/shm")]

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use super::cgroup;
use super::host::Place;
use super::system::{self, Kind, Object, Process, ProcessId, Shared, if_there};
use crate::ids::InstanceId;

/// A killed process that does not end is stuck in the kernel.
const LONGEST_DYING: Duration = Duration::from_secs(20);

/// Asks an agent to end together with its engine, and waits for at most `deadline`.
pub(super) async fn interrupt(agent: ProcessId, deadline: Duration) -> io::Result<()> {
    if let Some(handle) = agent.open()? {
        handle.send(Signal::INT)?;
        // One that does not end in time is killed by whoever asked.
        let _ = tokio::time::timeout(deadline, handle.ended()).await;
    }
    Ok(())
}

impl Place {
    /// Kills every process of a host, waits until none is left, and removes the shared memory that they had.
    pub(super) async fn kill_all(&self, instance: InstanceId) -> io::Result<()> {
        let mut killed = BTreeSet::new();
        killed.extend(self.recorded_engine(instance)?);
        let mut shared = BTreeSet::new();
        let account = self.account(instance)?;
        loop {
            if let Some(uid) = account {
                strike(uid).await?;
            }
            let alive = self.processes(instance, account)?;
            if alive.is_empty() {
                break;
            }
            let mut dying = Vec::new();
            for process in alive {
                if account.is_none() {
                    shared.extend(Shared::of(process)?);
                }
                killed.insert(process.pid);
                if let Some(handle) = process.open()? {
                    handle.send(Signal::KILL)?;
                    dying.push(handle);
                }
            }
            if let Some(cgroups) = &self.cgroups {
                // Those that were forked meanwhile go at once where the kernel can do that; else in the next round.
                cgroups.of(&instance.to_string()).iter().for_each(|group| {
                    cgroup::kill(group);
                });
            }
            for handle in dying {
                if tokio::time::timeout(LONGEST_DYING, handle.ended()).await.is_err() {
                    return Err(io::Error::other("a killed process does not end"));
                }
            }
        }
        match account {
            Some(uid) => remove_objects(|object| object.owner == uid).await,
            None => remove_shared(&shared, &killed).await,
        }
    }

    /// What lives of a host: the members of its control groups and the processes of its account; without either, what works
    /// in its directories and what descends from that. Engines' backends have sessions of their own and outlive a killed parent.
    fn processes(&self, instance: InstanceId, account: Option<u32>) -> io::Result<Vec<ProcessId>> {
        let mut found = match &self.cgroups {
            Some(cgroups) => {
                let mut found: Vec<ProcessId> = self.find_agent(instance)?.into_iter().collect();
                for group in cgroups.of(&instance.to_string()) {
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

    /// The engine that the agent last started: one that crashed before is not among the living, but its segment is.
    fn recorded_engine(&self, instance: InstanceId) -> io::Result<Option<i32>> {
        let text = if_there(std::fs::read(self.directory(instance).join("agent/engine.json")))?;
        // One that is half written names no engine.
        let value: Option<serde_json::Value> = text.and_then(|text| serde_json::from_slice(&text).ok());
        Ok(value.and_then(|value| i32::try_from(value["pid"].as_i64()?).ok()))
    }
}

/// Kills everything that an account runs, at once: of those that multiply, none is left that would be seen too late.
pub(super) async fn strike(uid: u32) -> io::Result<()> {
    let mut command = tokio::process::Command::new("/bin/sh");
    command.args(["-c", "kill -s KILL -- -1"]).env_clear().current_dir("/");
    // As that account it reaches nobody else. That there is nothing to kill is no failure.
    command.uid(uid).gid(uid).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await?;
    Ok(())
}

/// Removes what engines leave that share an account: it goes by who made or had it.
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

/// Removes those System V objects.
async fn remove_objects(are_meant: impl Fn(&Object) -> bool) -> io::Result<()> {
    let mut objects = Vec::new();
    for kind in Kind::ALL {
        objects.extend(system::objects(kind)?.into_iter().filter(|object| are_meant(object)));
    }
    for object in objects {
        let mut command = tokio::process::Command::new("ipcrm");
        command.args([object.kind.option(), &object.id.to_string()]);
        if nix::unistd::geteuid().is_root() {
            // As its owner, so that what has this number by now and is another's stays.
            command.uid(object.owner).gid(object.owner);
        }
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
        // One that has gone by itself meanwhile is as good.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await?;
    }
    Ok(())
}

/// Whether anybody still has it.
fn is_mapped(file: &Shared) -> io::Result<bool> {
    for process in system::processes()? {
        if Shared::of(process.id)?.contains(file) {
            return Ok(true);
        }
    }
    Ok(false)
}
