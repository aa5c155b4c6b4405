//! Ending a host whole: every process, and the shared memory that they leave.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use super::cgroup;
use super::host::Place;
use super::system::{self, Process, ProcessId, Shared, Unattached};
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
        killed.extend(self.recorded_engine(instance));
        let mut shared = BTreeSet::new();
        loop {
            let alive = self.processes(instance)?;
            if alive.is_empty() {
                break;
            }
            let mut dying = Vec::new();
            for process in alive {
                shared.extend(Shared::of(process));
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
        let engines = self.engine_account.as_deref().and_then(|name| nix::unistd::User::from_name(name).ok().flatten());
        remove_shared(&shared, &killed, engines.map(|account| account.uid.as_raw())).await
    }

    /// What lives of a host: the members of its control groups; without one, what works in its directories and what
    /// descends from that. Engines' backends have sessions of their own and outlive a killed parent.
    fn processes(&self, instance: InstanceId) -> io::Result<Vec<ProcessId>> {
        if let Some(cgroups) = &self.cgroups {
            let groups = cgroups.of(&instance.to_string());
            let mut members: BTreeSet<i32> = BTreeSet::new();
            let mut found: Vec<ProcessId> = groups.iter().flat_map(|group| cgroup::members(group)).collect();
            found.extend(self.find_agent(instance));
            found.retain(|process| members.insert(process.pid));
            return Ok(found);
        }
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
    fn recorded_engine(&self, instance: InstanceId) -> Option<i32> {
        let text = std::fs::read(self.directory(instance).join("agent/engine.json")).ok()?;
        let value: serde_json::Value = serde_json::from_slice(&text).ok()?;
        i32::try_from(value["pid"].as_i64()?).ok()
    }
}

async fn remove_shared(shared: &BTreeSet<Shared>, makers: &BTreeSet<i32>, engines: Option<u32>) -> io::Result<()> {
    for Unattached { id, maker, owner } in system::unattached_segments() {
        // An engine that dies while it is initialised was never written down. The engines' account is theirs alone: what
        // nobody there has attached, and whose maker is dead, is nobody's.
        let orphaned = engines == Some(owner) && ProcessId::of(maker).is_none();
        if orphaned || makers.contains(&maker) || shared.contains(&Shared::Segment(id)) {
            let mut command = tokio::process::Command::new("ipcrm");
            command.args(["-m", &id.to_string()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            // One that has gone by itself meanwhile is as good.
            command.status().await?;
        }
    }
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

/// Whether anybody still has it.
fn is_mapped(file: &Shared) -> io::Result<bool> {
    Ok(system::processes()?.iter().any(|process| Shared::of(process.id).contains(file)))
}
