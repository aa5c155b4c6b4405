//! The process driver: a host is an agent and its engine, running as processes on this machine; a volume is a
//! directory.
//!
//! The agent outlives the controller, which finds it again by a record that it wrote when it started the agent. If the
//! controller is root, each host has a user id for its engine, a mount namespace in which other hosts are not visible,
//! and cgroups that limit it and by which all its processes are killed. Otherwise the processes of a host are those
//! whose working directory is the host's.

mod accounts;
mod address;
mod agent;
mod cgroup;
mod diag;
mod fence;
mod filter;
mod groups;
mod host;
mod keys;
mod kill;
mod migrate;
mod namespace;
mod services;
mod squatters;
mod system;
mod tenant;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use ipnet::Ipv4Net;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trove_strategy::domain;

use super::{Compute, ComputeError, HostSpec, Placement, Squatter, check_on_one_machine, disk};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ids::{InstanceId, ProjectId};
use crate::model::{ArtifactKind, Requirements};
use crate::state::HostState;
use agent::Started;
use host::{Apart, ENROLMENT, Hosts};

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(30);
/// After an agent ran this long, the next restart has the shortest delay again.
const LONG_LIFE: Duration = Duration::from_secs(60);
/// Time that an agent and its engine have to end gracefully.
const ORDERLY: Duration = Duration::from_secs(75);
/// Interval in which the packet filter is renewed, in case the machine's firewall was flushed.
const FILTER_RENEWAL: Duration = Duration::from_secs(60);

/// Settings of the driver.
pub struct ProcessOptions {
    pub state_dir: PathBuf,
    pub config: Arc<Config>,
}

/// Opens the driver; see [`crate::compute::open`].
pub(super) fn open(state_dir: &Path, config: &Arc<Config>) -> Result<Arc<dyn Compute>> {
    let options = ProcessOptions { state_dir: state_dir.to_owned(), config: config.clone() };
    let driver: Arc<dyn Compute> = ProcessDriver::new(options)?;
    Ok(driver)
}

pub struct ProcessDriver {
    hosts: Hosts,
    range: Ipv4Net,
    watchers: Mutex<HashMap<InstanceId, Watcher>>,
    /// Serialises calls for the same host.
    turns: Mutex<HashMap<InstanceId, Arc<tokio::sync::Mutex<()>>>>,
}

struct Watcher {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl ProcessDriver {
    /// Opens the driver. It watches all hosts and starts agents that are not running.
    ///
    /// # Errors
    /// Internal: a directory cannot be made; 400: the range of addresses is wrong.
    fn new(options: ProcessOptions) -> Result<Arc<Self>> {
        let range = options.config.loopback_range()?;
        let driver = Self::over(find_hosts(&options)?, range);
        driver.map_err(|error| Error::internal("find the hosts", error))
    }

    fn over(hosts: Hosts, range: Ipv4Net) -> std::result::Result<Arc<Self>, ComputeError> {
        let driver = Arc::new(Self { hosts, range, watchers: Mutex::default(), turns: Mutex::default() });
        // A host that is half made or half removed is left to the operation that makes or removes it.
        let all = driver.hosts.list();
        let all = all.map_err(|error| ComputeError::Transient(format!("look which hosts there are: {error}")))?;
        for instance in all {
            if driver.hosts.is_whole(instance)? {
                driver.watch(instance, None);
            }
        }
        if let Some(apart) = &driver.hosts.apart {
            apart.filter.renew(&apart.accounts);
            tokio::spawn(keep_filter(Arc::downgrade(apart)));
        }
        Ok(driver)
    }

    fn turn(&self, instance: InstanceId) -> Arc<tokio::sync::Mutex<()>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(instance).or_default().clone()
    }

    /// Starts the task that keeps the host's agent running, unless there is one. `child` is the agent if this process
    /// started it.
    fn watch(&self, instance: InstanceId, child: Option<std::process::Child>) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        if watchers.get(&instance).is_some_and(|watcher| !watcher.task.is_finished()) {
            return;
        }
        let cancel = CancellationToken::new();
        let task = tokio::spawn(keep_agent(self.hosts.clone(), instance, child, cancel.clone()));
        watchers.insert(instance, Watcher { cancel, task });
    }

    /// Ends every process of a host, gracefully if possible.
    async fn end(&self, instance: InstanceId, fence: u64) -> std::result::Result<(), ComputeError> {
        self.hosts.withdraw(instance, fence).await?;
        self.unwatch(instance).await;
        let transient = |error: std::io::Error| ComputeError::Transient(format!("end the host {instance}: {error}"));
        if let Some(agent) = self.hosts.find_agent(instance).map_err(transient)? {
            kill::interrupt(agent, ORDERLY).await.map_err(transient)?;
        }
        // Check the fence again after each long step: if this controller stalled, another one may have started the host
        // again.
        self.hosts.check_fence(instance, fence)?;
        self.hosts.kill_all(instance).await.map_err(transient)?;
        self.hosts.check_fence(instance, fence)?;
        self.hosts.remove_volatile(instance)
    }

    async fn unwatch(&self, instance: InstanceId) {
        let watcher = self.watchers.lock().unwrap_or_else(PoisonError::into_inner).remove(&instance);
        if let Some(watcher) = watcher {
            watcher.cancel.cancel();
            // The task ends soon after its cancellation. A panic in it is logged by the runtime.
            let _ = watcher.task.await;
        }
    }

    fn is_watched(&self, instance: InstanceId) -> bool {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&instance)
    }
}

/// Stops every agent and engine gracefully. All data stays.
///
/// # Errors
/// Internal: a host cannot be ended.
pub(super) async fn stop_hosts(state_dir: &Path, config: &Arc<Config>) -> Result<()> {
    let options = ProcessOptions { state_dir: state_dir.to_owned(), config: config.clone() };
    let hosts = find_hosts(&options)?;
    let all = hosts.list().map_err(|error| Error::internal("look which hosts there are", error))?;
    for instance in all {
        let agent = hosts.find_agent(instance).map_err(|error| Error::internal("look for an agent", error))?;
        if let Some(agent) = agent {
            kill::interrupt(agent, ORDERLY).await.map_err(|error| Error::internal("stop an agent", error))?;
        }
        hosts.kill_all(instance).await.map_err(|error| Error::internal("end a host", error))?;
        hosts.remove_volatile(instance).map_err(|error| Error::internal("end a host", error))?;
    }
    Ok(())
}

/// Restarts the agent of a host whenever it ends, until cancelled.
async fn keep_agent(
    hosts: Hosts,
    instance: InstanceId,
    mut child: Option<std::process::Child>,
    cancel: CancellationToken,
) {
    let mut delay = FIRST_DELAY;
    loop {
        let begun = std::time::Instant::now();
        if child.is_none() {
            match hosts.ensure_agent(instance).await {
                Ok(Started::Now(started)) => child = Some(started),
                Ok(Started::Before) => {}
                // Another controller has removed the host.
                Ok(Started::Gone) => return,
                Err(error) => tracing::error!(%instance, "the agent cannot be started: {error}"),
            }
        }
        tokio::select! {
            () = hosts.await_agents_end(instance, child.as_ref()) => {}
            () = cancel.cancelled() => return collect(child),
        }
        // Reap the agent. If it has not ended after all, the loop waits for it again.
        if let Some(Some(status)) = child.as_mut().and_then(|child| child.try_wait().ok()) {
            child = None;
            tracing::warn!(%instance, %status, "an agent ended and is started again");
        }
        delay = if begun.elapsed() > LONG_LIFE { FIRST_DELAY } else { (delay * 2).min(LAST_DELAY) };
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = cancel.cancelled() => return collect(child),
        }
    }
}

/// Renews the packet filter periodically, as long as the driver exists.
async fn keep_filter(apart: Weak<Apart>) {
    loop {
        tokio::time::sleep(FILTER_RENEWAL).await;
        let Some(apart) = apart.upgrade() else { return };
        // A panic in it is logged by the runtime.
        let _ = tokio::task::spawn_blocking(move || apart.filter.renew(&apart.accounts)).await;
    }
}

/// Reaps a child when it ends, on a thread for blocking work.
fn collect(child: Option<std::process::Child>) {
    if let Some(mut child) = child {
        tokio::task::spawn_blocking(move || child.wait());
    }
}

#[allow(clippy::disallowed_methods, reason = "directories above those of hosts")]
fn make(path: &Path, mode: u32) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|error| Error::internal(format!("make {}", path.display()), error))
}

#[allow(clippy::disallowed_methods, reason = "the runtime directory is this account's, which is looked at")]
fn find_hosts(options: &ProcessOptions) -> Result<Hosts> {
    let is_root = nix::unistd::geteuid().is_root();
    let process = &options.config.process;
    let own = nix::unistd::geteuid();
    let runtime = process.runtime_dir.clone().unwrap_or_else(|| match std::env::var_os("XDG_RUNTIME_DIR") {
        _ if is_root => PathBuf::from("/run/trove-rs"),
        Some(directory) => PathBuf::from(directory).join("trove-rs"),
        None => PathBuf::from(format!("/tmp/trove-rs-{own}")),
    });
    let mode = if is_root { 0o711 } else { 0o700 };
    make(&runtime, mode)?;
    let facts = std::fs::metadata(&runtime).map_err(|error| Error::internal("look at the runtime directory", error))?;
    if facts.uid() != own.as_raw() {
        return Err(Error::Internal {
            attempt: format!("use {}: it is another account's; set process.runtime_dir", runtime.display()),
            source: None,
        });
    }
    let permissions = std::fs::Permissions::from_mode(mode);
    let closed = std::fs::set_permissions(&runtime, permissions);
    closed.map_err(|error| Error::internal(format!("close {}", runtime.display()), error))?;
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| Error::internal(format!("find {}", path.display()), error))
    };
    let state = absolute(&options.state_dir)?;
    let root = process.hosts_dir.as_deref().map_or_else(|| Ok(state.join("hosts")), absolute)?;
    make(&root, 0o711)?;
    let key = disk::key(process.hosts_dir.as_ref().unwrap_or(&options.state_dir));
    let cgroups = if is_root { cgroup::Cgroups::find(&key) } else { Err("not root".to_owned()) };
    if is_root {
        let unlimited = match &cgroups {
            Ok(found) if found.limit_processes() => None,
            Ok(_) => Some("no control group of this machine limits processes".to_owned()),
            Err(reason) => Some(reason.clone()),
        };
        tell_gap(host::UNLIMITED, unlimited.as_deref());
    }
    let runtime = absolute(&runtime)?;
    let hidden = vec![state.clone(), root.clone(), runtime.clone()];
    Ok(Hosts {
        root,
        runtime,
        cgroups: cgroups.ok().map(Arc::new),
        apart: if is_root { Some(Arc::new(apart(&options.config, state, hidden)?)) } else { None },
        program: absolute(&process.agent_program.clone().unwrap_or_else(host::program_beside))?,
    })
}

/// Opens what separates hosts from each other.
fn apart(config: &Config, state: PathBuf, hidden: Vec<PathBuf>) -> Result<Apart> {
    let accounts = accounts::Accounts::parse(&config.process.uid_range, Path::new(accounts::RESERVATIONS));
    let accounts = accounts.map_err(|error| Error::BadRequest(format!("process.uid_range: {error}.")))?;
    let obstacle = namespace::can_be_made().err();
    if let Some(obstacle) = &obstacle {
        tracing::error!("no host can be made, since hosts cannot be kept apart on this machine: {obstacle}");
    }
    let passage = domain::obstacle().map(|reason| format!("Linux 6.12 with Landlock keeps them from it: {reason}"));
    let visible = namespace::can_hide_processes().err();
    let hides_processes = visible.is_none();
    // In the titles of processes there are the databases, users and addresses of an engine's clients.
    let gaps = [
        ("instances could pass each other open files and sockets", passage),
        ("an instance could see the processes of others", visible),
    ];
    gaps.iter().for_each(|(gap, reason)| tell_gap(gap, reason.as_deref()));
    let gap = gaps.iter().find(|(_, reason)| reason.is_some()).map(|(gap, _)| *gap);
    let listens = [Some(config.api.listen), Some(config.agents.listen), config.metrics.listen].into_iter().flatten();
    let service = services::Service { state, uids: accounts.range(), listens: listens.collect() };
    Ok(Apart { accounts, filter: filter::Filter::new(filter::TABLE, service), hidden, obstacle, hides_processes, gap })
}

/// Logs for what reason tenants are not kept apart, if there is one.
fn tell_gap(gap: &str, reason: Option<&str>) {
    if let Some(reason) = reason {
        tracing::error!("{gap}, so root cannot be enabled unless process.allow_root is set: {reason}");
    }
}

#[async_trait]
impl Compute for ProcessDriver {
    fn artifacts(&self) -> ArtifactKind {
        ArtifactKind::Local
    }

    /// All hosts have loopback addresses of this machine. Networks (`nics`) are accepted and ignored, since some
    /// clients always send one; `access.allowed_cidrs` is ignored, since other machines cannot reach these addresses
    /// anyway.
    fn check_order(&self, requirements: &Requirements) -> std::result::Result<(), String> {
        check_on_one_machine(requirements)?;
        if requirements.access.as_ref().is_some_and(|access| access.is_public) {
            return Err(
                "access.is_public is impossible: the hosts of this service have no public addresses.".to_owned()
            );
        }
        Ok(())
    }

    async fn choose_address(
        &self,
        _instance: InstanceId,
        _project: &ProjectId,
        port: u16,
    ) -> std::result::Result<IpAddr, ComputeError> {
        address::choose(self.range, port)
    }

    async fn reserve_account(
        &self,
        instance: InstanceId,
        taken: &BTreeSet<u32>,
    ) -> std::result::Result<Option<u32>, ComputeError> {
        let (hosts, taken) = (self.hosts.clone(), taken.clone());
        let reserved = tokio::task::spawn_blocking(move || hosts.reserve(instance, &taken)).await;
        reserved.map_err(|error| ComputeError::Transient(format!("reserve an account: {error}")))?
    }

    async fn end_squatters(&self) -> std::result::Result<Vec<Squatter>, ComputeError> {
        if self.hosts.apart.is_none() {
            return Ok(Vec::new());
        }
        let transient = |error: std::io::Error| ComputeError::Transient(format!("look who listens: {error}"));
        let tenants = self.hosts.tenants().map_err(transient)?;
        squatters::end(&self.hosts, &tenants).await.map_err(transient)
    }

    async fn free_address(&self, at: SocketAddr, again: bool) -> std::result::Result<bool, ComputeError> {
        if self.hosts.apart.is_none() {
            return Ok(false);
        }
        let transient = |error: std::io::Error| ComputeError::Transient(format!("look who has {at}: {error}"));
        let tenants = self.hosts.tenants().map_err(transient)?;
        if squatters::end_at(&self.hosts, &tenants, at, again).await.map_err(transient)? {
            return Ok(true);
        }
        match squatters::others_at(at).map_err(transient)? {
            Some(process) => Err(ComputeError::Fatal(format!("{process}, has it"))),
            // A connection in TIME_WAIT blocks the address for a minute, or the process has just ended.
            None => Ok(true),
        }
    }

    /// Identifies the directory of hosts on this boot of this machine; controllers with the same directory share their
    /// hosts.
    fn location(&self) -> Result<Option<String>> {
        let place = disk::place(&self.hosts.root);
        place.map(Some).map_err(|error| Error::internal("look at the directory of hosts", error))
    }

    fn separates_tenants(&self) -> std::result::Result<(), &'static str> {
        self.hosts.gap().map_or(Ok(()), Err)
    }

    async fn ensure_host(&self, spec: &HostSpec) -> std::result::Result<Placement, ComputeError> {
        let turn = self.turn(spec.instance);
        let _turn = turn.lock().await;
        self.hosts.check(spec)?;
        if self.hosts.had_another_account(spec)? {
            tracing::info!(instance = %spec.instance, "the host gets an account of its own and is started again");
            self.end(spec.instance, spec.fence).await?;
            self.hosts.give(spec).await?;
        }
        self.hosts.write(spec).await?;
        // The watching task may be about to start the agent, too; only one may.
        self.unwatch(spec.instance).await;
        let child = match self.hosts.ensure_agent(spec.instance).await? {
            Started::Now(child) => Some(child),
            Started::Before => None,
            Started::Gone => {
                return Err(ComputeError::Transient("the host was stopped or removed meanwhile".to_owned()));
            }
        };
        self.watch(spec.instance, child);
        // No driver state is needed: everything else is in the host's directory.
        Ok(Placement { addresses: vec![spec.network.address], driver_state: serde_json::Value::Null })
    }

    async fn stop_host(&self, instance: InstanceId, fence: u64) -> std::result::Result<(), ComputeError> {
        let turn = self.turn(instance);
        let _turn = turn.lock().await;
        if !self.hosts.is_there(instance)? {
            return Ok(());
        }
        self.end(instance, fence).await
    }

    async fn delete_host(&self, instance: InstanceId, fence: u64) -> std::result::Result<(), ComputeError> {
        let turn = self.turn(instance);
        let turned = turn.lock().await;
        self.hosts.withdraw(instance, fence).await?;
        self.unwatch(instance).await;
        let transient = |error: std::io::Error| ComputeError::Transient(format!("end the host {instance}: {error}"));
        self.hosts.kill_all(instance).await.map_err(transient)?;
        self.hosts.remove(instance).await?;
        drop(turned);
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).remove(&instance);
        Ok(())
    }

    async fn describe(&self, instance: InstanceId) -> std::result::Result<HostState, ComputeError> {
        if !self.hosts.is_there(instance)? {
            return Ok(HostState::Absent);
        }
        if self.hosts.is_whole(instance)? {
            // Another controller may have made the host, so it may not be watched yet.
            self.watch(instance, None);
        }
        let agent = self.hosts.find_agent(instance);
        let agent =
            agent.map_err(|error| ComputeError::Transient(format!("look for the agent of {instance}: {error}")))?;
        // An agent that has neither certificate nor token cannot connect. Report the host as dead, so that it is made
        // again with a new token.
        let alive =
            self.is_watched(instance) && agent.is_some() && ENROLMENT.can_enter(&self.hosts.directory(instance))?;
        Ok(if alive { HostState::Active } else { HostState::Dead })
    }

    async fn list(&self) -> std::result::Result<Vec<InstanceId>, ComputeError> {
        let transient = |error: std::io::Error| ComputeError::Transient(format!("look which hosts there are: {error}"));
        let mut all: BTreeSet<InstanceId> = self.hosts.list().map_err(transient)?.into_iter().collect();
        if let Some(cgroups) = &self.hosts.cgroups {
            all.extend(cgroups.hosts().map_err(transient)?.iter().filter_map(|name| name.parse::<InstanceId>().ok()));
        }
        Ok(all.into_iter().collect())
    }
}
