//! The embedded driver: a host is an agent with its engine on this machine, a volume is a directory.
//!
//! The agent outlives the controller, which finds it again by what it wrote down when it started it. As root each host has an
//! account for its engine, a mount namespace in which there is no other host, and a control group by which it is limited
//! and ended whole. As an ordinary user a host is what works in its directories.

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
mod lock;
mod migrate;
mod namespace;
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

use super::{Compute, ComputeError, HostSpec, Placement, Squatter};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::model::{Locality, Requirements};
use crate::state::HostState;
use agent::Started;
use host::{Apart, Hosts};

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(30);
/// An agent that ran this long did not die of its start.
const LONG_LIFE: Duration = Duration::from_secs(60);
/// For agents that are asked to end together with their engines.
const ORDERLY: Duration = Duration::from_secs(75);
/// How long the packet filter may be gone when somebody has flushed the machine's.
const FILTER_RENEWAL: Duration = Duration::from_secs(60);

/// What the driver is made of.
pub struct ProcessOptions {
    /// The controller's state directory.
    pub state_dir: PathBuf,
    pub config: Arc<Config>,
}

/// Opens the driver; see [`crate::compute::open`].
///
/// # Errors
/// As [`ProcessDriver::new`].
pub(super) fn open(state_dir: &Path, config: &Arc<Config>) -> Result<Arc<dyn Compute>> {
    let options = ProcessOptions { state_dir: state_dir.to_owned(), config: config.clone() };
    let driver: Arc<dyn Compute> = ProcessDriver::new(options)?;
    Ok(driver)
}

pub struct ProcessDriver {
    hosts: Hosts,
    range: Ipv4Net,
    watchers: Mutex<HashMap<InstanceId, Watcher>>,
    /// Calls about one host come one after the other.
    turns: Mutex<HashMap<InstanceId, Arc<tokio::sync::Mutex<()>>>>,
}

struct Watcher {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl ProcessDriver {
    /// The driver, which watches every host that is there and starts the agents that are not.
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
        // One that is half made or half removed is left to the operation that does it.
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

    /// Stops every agent with its engine in an orderly way, keeping all data.
    ///
    /// # Errors
    /// Internal: a host cannot be ended.
    pub async fn stop_hosts(options: &ProcessOptions) -> Result<()> {
        let hosts = find_hosts(options)?;
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

    fn turn(&self, instance: InstanceId) -> Arc<tokio::sync::Mutex<()>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(instance).or_default().clone()
    }

    /// Watches a host unless it is watched; `child` is its agent when this process has just started it.
    fn watch(&self, instance: InstanceId, child: Option<std::process::Child>) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        if watchers.get(&instance).is_some_and(|watcher| !watcher.task.is_finished()) {
            return;
        }
        let cancel = CancellationToken::new();
        let task = tokio::spawn(keep_agent(self.hosts.clone(), instance, child, cancel.clone()));
        watchers.insert(instance, Watcher { cancel, task });
    }

    /// Ends every process of a host, in an orderly way where that works.
    async fn end(&self, instance: InstanceId, fence: u64) -> std::result::Result<(), ComputeError> {
        self.hosts.withdraw(instance, fence).await?;
        self.unwatch(instance).await;
        let transient = |error: std::io::Error| ComputeError::Transient(format!("end the host {instance}: {error}"));
        if let Some(agent) = self.hosts.find_agent(instance).map_err(transient)? {
            kill::interrupt(agent, ORDERLY).await.map_err(transient)?;
        }
        // Each takes long, and another controller may have started the host again if this one stalled meanwhile.
        self.hosts.check_fence(instance, fence)?;
        self.hosts.kill_all(instance).await.map_err(transient)?;
        self.hosts.check_fence(instance, fence)?;
        self.hosts.remove_volatile(instance)
    }

    async fn unwatch(&self, instance: InstanceId) {
        let watcher = self.watchers.lock().unwrap_or_else(PoisonError::into_inner).remove(&instance);
        if let Some(watcher) = watcher {
            watcher.cancel.cancel();
            // It ends at its next instant; a panic in it is logged by the runtime.
            let _ = watcher.task.await;
        }
    }

    fn is_watched(&self, instance: InstanceId) -> bool {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&instance)
    }
}

/// Keeps the agent of a host running until it is cancelled.
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
                // Another controller has removed it.
                Ok(Started::Gone) => return,
                Err(error) => tracing::error!(%instance, "the agent cannot be started: {error}"),
            }
        }
        tokio::select! {
            () = hosts.await_agents_end(instance, child.as_ref()) => {}
            () = cancel.cancelled() => return collect(child),
        }
        // It has ended: this collects it. One that lives after all is waited for again.
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

/// Keeps the packet filter there as long as there is a driver.
async fn keep_filter(apart: Weak<Apart>) {
    loop {
        tokio::time::sleep(FILTER_RENEWAL).await;
        let Some(apart) = apart.upgrade() else { return };
        // A panic in it is logged by the runtime.
        let _ = tokio::task::spawn_blocking(move || apart.filter.renew(&apart.accounts)).await;
    }
}

/// Collects a child when it ends, off the threads that serve: nobody else will.
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
    let key = host::key(process.hosts_dir.as_ref().unwrap_or(&options.state_dir));
    let cgroups = if is_root { cgroup::Cgroups::find(&key) } else { Err("not root".to_owned()) };
    if let (true, Err(reason)) = (is_root, &cgroups) {
        tracing::warn!("hosts have no limits of memory: {reason}");
    }
    let runtime = absolute(&runtime)?;
    let hidden = vec![state, root.clone(), runtime.clone()];
    Ok(Hosts {
        root,
        runtime,
        cgroups: cgroups.ok().map(Arc::new),
        apart: if is_root { Some(Arc::new(apart(process, hidden)?)) } else { None },
        program: absolute(&process.agent_program.clone().unwrap_or_else(host::program_beside))?,
    })
}

/// What keeps the hosts of this machine apart.
fn apart(process: &crate::config::Process, hidden: Vec<PathBuf>) -> Result<Apart> {
    let accounts = accounts::Accounts::parse(&process.uid_range, Path::new(accounts::RESERVATIONS));
    let accounts = accounts.map_err(|error| Error::BadRequest(format!("process.uid_range: {error}.")))?;
    let obstacle = namespace::can_be_made().err();
    if let Some(obstacle) = &obstacle {
        tracing::error!("no host can be made, since hosts cannot be kept apart on this machine: {obstacle}");
    }
    Ok(Apart { accounts, filter: filter::Filter::new(filter::TABLE), hidden, obstacle })
}

#[async_trait]
impl Compute for ProcessDriver {
    /// All hosts are on this machine, behind addresses that only this machine reaches. Any network will do, since clients
    /// that know no other service insist on one; nor is there anybody whom `access.allowed_cidrs` would keep out.
    fn check_order(&self, requirements: &Requirements) -> std::result::Result<(), String> {
        let Requirements { nics: _, access, availability_zone, volume_type, locality } = requirements;
        let refusal = if availability_zone.is_some() {
            "availability_zone cannot be chosen: all hosts of this service are on one machine, which has no zones."
        } else if volume_type.is_some() {
            "volume.type cannot be chosen: the volumes of this service have none."
        } else if *locality == Some(Locality::AntiAffinity) {
            "locality anti-affinity is impossible: all hosts of this service are on one machine."
        } else if access.as_ref().is_some_and(|access| access.is_public) {
            "access.is_public is impossible: the hosts of this service have no public addresses."
        } else {
            return Ok(());
        };
        Err(refusal.to_owned())
    }

    async fn choose_address(&self, _instance: InstanceId, port: u16) -> std::result::Result<IpAddr, ComputeError> {
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
            // A connection that has ended keeps it for a minute, or who had it has just gone.
            None => Ok(true),
        }
    }

    /// The directory of hosts on this boot of this machine: controllers that share it see the same hosts.
    #[allow(clippy::disallowed_methods, reason = "the directory of hosts is this account's")]
    fn location(&self) -> Result<Option<String>> {
        let boot = host::boot().map_err(|error| Error::internal("read the boot id", error))?;
        let facts = std::fs::metadata(&self.hosts.root);
        let facts = facts.map_err(|error| Error::internal("look at the directory of hosts", error))?;
        Ok(Some(format!("{}/{}/{}", boot, facts.dev(), facts.ino())))
    }

    fn separates_tenants(&self) -> bool {
        self.hosts.apart.as_ref().is_some_and(|apart| apart.obstacle.is_none() && apart.filter.obstacle().is_none())
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
        // One starts at a time: the watcher may be about to.
        self.unwatch(spec.instance).await;
        let child = match self.hosts.ensure_agent(spec.instance).await? {
            Started::Now(child) => Some(child),
            Started::Before => None,
            Started::Gone => {
                return Err(ComputeError::Transient("the host was stopped or removed meanwhile".to_owned()));
            }
        };
        self.watch(spec.instance, child);
        // The host's directory says the rest.
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
            // Another controller may have made it.
            self.watch(instance, None);
        }
        let agent = self.hosts.find_agent(instance);
        let agent =
            agent.map_err(|error| ComputeError::Transient(format!("look for the agent of {instance}: {error}")))?;
        // One that cannot come in is as good as none: who finds a dead host makes it anew, with a token.
        let alive = self.is_watched(instance) && agent.is_some() && self.hosts.can_enter(instance)?;
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
