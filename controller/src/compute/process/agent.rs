//! The agent of a host: how its process is found, and how it is started in the host's namespaces.

#![allow(
    clippy::disallowed_methods,
    reason = "the directories of hosts and what lies right in them are this account's"
)]

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};
use trove_strategy::process::if_there;

use super::cgroup::Part;
use super::host::{Hosts, Written};
use super::namespace::View;
use super::system::{self, Process, ProcessId};
use crate::compute::ComputeError;
use crate::compute::disk::{boot, failed, write};
use crate::ids::InstanceId;

/// Whether all user ids of the process are the controller's account.
fn is_own(process: &Process) -> bool {
    process.accounts.iter().eq([&nix::unistd::geteuid().as_raw()])
}

/// Result of [`Hosts::ensure_agent`].
#[derive(Debug)]
pub(super) enum Started {
    /// It was started now.
    Now(Child),
    /// It was running already, perhaps started by another controller.
    Before,
    /// There is no such host, or it was stopped.
    Gone,
}

/// Identifies a started agent, in a file that only this account can write. The boot id is needed because pids are
/// reused and a start time counts from the boot.
#[derive(Serialize, Deserialize)]
struct Record {
    boot: String,
    process: ProcessId,
}

impl Hosts {
    /// The agent of a host: the process that was recorded when it was started, if it still lives. Its program is not
    /// compared, since the agent program may be a script that executes another.
    ///
    /// # Errors
    /// The search failed. The agent may still run.
    pub(super) fn find_agent(&self, instance: InstanceId) -> std::io::Result<Option<ProcessId>> {
        let Some(bytes) = if_there(fs::read(self.record_file(instance)))? else { return self.look_for_agent(instance) };
        // The record may be incomplete, if its writer was killed.
        let Ok(record) = serde_json::from_slice::<Record>(&bytes) else { return self.look_for_agent(instance) };
        let Some(process) = Process::of(record.process.pid)? else { return Ok(None) };
        let is_it = process.id == record.process && is_own(&process) && boot()? == record.boot;
        let is_member = match &self.cgroups {
            // Older versions put the agent into the engine's cgroups.
            Some(cgroups) => [Part::Agent, Part::Engine].into_iter().try_fold(false, |is_member, part| {
                let group = cgroups.path(&instance.to_string(), part);
                Ok::<_, std::io::Error>(is_member || system::is_in_group(process.id.pid, &group)?)
            })?,
            None => true,
        };
        Ok((is_it && is_member).then_some(process.id))
    }

    /// Finds an agent that was not recorded, because the controller was killed just then, or because an older version
    /// started it. It has the controller's account, runs the agent program, leads a session, and its working directory
    /// is the host's. An engine with an account of its own cannot make such a process.
    fn look_for_agent(&self, instance: InstanceId) -> std::io::Result<Option<ProcessId>> {
        let directories = [self.directory(instance), View::home(&self.run_directory(instance))];
        let program = if_there(fs::canonicalize(self.program(instance)))?;
        let is_agent = |process: &Process| {
            let is_there = process.directory.as_ref().is_some_and(|directory| directories.contains(directory));
            is_own(process) && process.leads && is_there && program.is_some() && process.program == program
        };
        Ok(system::processes()?.into_iter().find(is_agent).map(|process| process.id))
    }

    fn record_file(&self, instance: InstanceId) -> PathBuf {
        self.directory(instance).join("agent-process")
    }

    fn program(&self, instance: InstanceId) -> PathBuf {
        match fs::read(self.directory(instance).join("agent-program")) {
            Ok(bytes) => PathBuf::from(String::from_utf8_lossy(&bytes).into_owned()),
            Err(_) => self.program.clone(),
        }
    }

    /// Whether an agent can be started from the host's configuration. Hosts of older versions had no account.
    fn can_start(&self, instance: InstanceId) -> Result<bool, ComputeError> {
        Ok(self.is_whole(instance)? && (self.apart.is_none() || self.written(instance)?.engine_uid.is_some()))
    }

    /// Waits until the host's agent ends. `child` is the agent if this process started it.
    pub(super) async fn await_agents_end(&self, instance: InstanceId, child: Option<&Child>) {
        // The pid of a child is not reused until the child is reaped.
        let agent = match child.map(|child| i32::try_from(child.id())) {
            Some(Ok(pid)) => ProcessId::of(pid),
            Some(Err(_)) => Ok(None),
            None => self.find_agent(instance),
        };
        match agent.and_then(|agent| agent.map(ProcessId::open).transpose()) {
            Ok(handle) => {
                if let Some(handle) = handle.flatten() {
                    handle.ended().await;
                }
            }
            // The caller tries again after a pause.
            Err(error) => tracing::warn!(%instance, "an agent cannot be looked at: {error}"),
        }
    }

    /// Starts the host's agent unless it is running.
    pub(super) async fn ensure_agent(&self, instance: InstanceId) -> Result<Started, ComputeError> {
        self.off_the_runtime(move |hosts| hosts.ensure_agent_now(instance)).await
    }

    fn ensure_agent_now(&self, instance: InstanceId) -> Result<Started, ComputeError> {
        let Some(_alone) = self.alone(instance)? else { return Ok(Started::Gone) };
        let agent = self.find_agent(instance);
        let agent =
            agent.map_err(|error| ComputeError::Transient(format!("look for the agent of {instance}: {error}")))?;
        if agent.is_some() && self.is_whole(instance)? {
            self.renew_limits(instance);
            return Ok(Started::Before);
        }
        if !self.can_start(instance)? {
            return Ok(Started::Gone);
        }
        self.start_agent(instance).map(Started::Now)
    }

    /// Starts the agent in a session of its own, so that it outlives this process, and records its pid.
    fn start_agent(&self, instance: InstanceId) -> Result<Child, ComputeError> {
        let (directory, run, program) =
            (self.directory(instance), self.run_directory(instance), self.program(instance));
        let written = self.written(instance)?;
        self.make_volatile(instance, &written)?;
        self.renew_groups(instance)?;
        let log = directory.join("log/agent.log");
        let output = File::options().create(true).append(true).mode(0o600).open(&log).map_err(failed("open", &log))?;
        let again = output.try_clone().map_err(failed("open", &log))?;
        let home = if self.apart.is_some() { View::home(&run) } else { directory };
        // setsid(1) of util-linux: a child is not the leader of a process group, so setsid does not fork and the pid
        // stays.
        let mut command = Command::new("setsid");
        command.arg(&program).args(["run", "--config"]).arg(home.join("agent.toml"));
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8");
        #[cfg(feature = "failpoints")]
        for name in ["TROVE_FAILPOINTS", "TROVE_FAILPOINTS_ONCE"] {
            if let Some(value) = std::env::var_os(name.replace("TROVE_", "TROVE_AGENT_")) {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::null()).stdout(output).stderr(again).current_dir(home);
        let record = self.record_file(instance);
        match fs::remove_file(&record) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("remove", &record)(error)),
            _ => {}
        }
        let started = match self.view(instance, &written, &program) {
            Some(view) => view.enter(move || command.spawn()),
            None => command.spawn(),
        };
        let mut child = started.map_err(failed("start", &program))?;
        if let Err(error) = self.write_down(instance, &child) {
            // An agent that is not recorded would not be found again: end it.
            let _ = child.kill().and_then(|()| child.wait());
            return Err(error);
        }
        Ok(child)
    }

    /// The namespaces of the host; `None` if the controller is not root.
    fn view(&self, instance: InstanceId, written: &Written, program: &Path) -> Option<View> {
        let apart = self.apart.as_ref()?;
        Some(View {
            host: self.directory(instance),
            run: self.run_directory(instance),
            uid: written.engine_uid?,
            groups: self.groups(instance),
            hidden: apart.hidden.clone(),
            programs: vec![program.to_owned(), written.bindir.clone()],
            memory_mib: written.memory_mib,
            hides_processes: apart.hides_processes,
        })
    }

    /// Puts a new agent into its cgroups and records it.
    fn write_down(&self, instance: InstanceId, child: &Child) -> Result<(), ComputeError> {
        // Nothing to record if it has ended already.
        let process = i32::try_from(child.id()).map_or(Ok(None), ProcessId::of);
        let process =
            process.map_err(|error| ComputeError::Transient(format!("look at the agent of {instance}: {error}")))?;
        let Some(process) = process else { return Ok(()) };
        let joined = self.cgroups.as_ref().map_or(Ok(()), |cgroups| cgroups.join(&instance.to_string(), process));
        let file = self.record_file(instance);
        joined.map_err(failed("put the agent into its control group for", &file))?;
        let boot = boot().map_err(failed("read the boot id for", &file))?;
        let text = serde_json::to_vec(&Record { boot, process });
        let text = text.map_err(|error| ComputeError::Fatal(format!("write down the agent: {error}")))?;
        write(&file, &text)
    }
}
