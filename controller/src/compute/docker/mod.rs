//! The Docker driver: a host is a container of a guest image, on a network of its project, with a volume that is a file
//! system of its own.
//!
//! Everything about a host is in its directory on this machine (`hosts.rs`); containers and networks are made from it, and
//! made again when they are missing. So a controller that is killed between any two steps leaves nothing that the next
//! call, or the next start, does not finish or remove.

mod addresses;
mod containers;
mod engine;
mod firewall;
mod hosts;
mod images;
mod networks;
mod volume;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use nix::fcntl::Flock;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{Compute, ComputeError, HostSpec, Placement, check_on_one_machine, disk};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ids::{InstanceId, ProjectId};
use crate::model::{Artifact, ArtifactKind, Image, Requirements};
use crate::state::HostState;
use addresses::{Place, Range, gateway};
use containers::Containers;
use firewall::Firewall;
use hosts::{ENROLMENT, Hosts};
use images::Images;
use networks::Networks;
use volume::Volume;

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(30);
/// After a container ran this long, the next restart has the shortest delay again.
const LONG_LIFE: Duration = Duration::from_secs(60);
/// Interval in which the packet filter is renewed, in case the machine's firewall was flushed.
const FILTER_RENEWAL: Duration = Duration::from_secs(60);

type Done<T> = std::result::Result<T, ComputeError>;

/// Opens the driver; see [`crate::compute::open`]. It watches all hosts and starts containers that do not run.
///
/// # Errors
/// 400: Docker does not answer, or the configuration does not fit; internal: a directory or network cannot be made.
pub(super) async fn open(state_dir: &Path, config: &Config) -> Result<Arc<dyn Compute>> {
    let parts = parts(state_dir, config).await?;
    let agents = reachable(config, parts.networks.range)?;
    tracing::debug!("agents connect to {agents}");
    let made = parts.networks.ensure(parts.networks.range.control(), None).await;
    made.map_err(|error| Error::internal("make the network with the controllers' address", error))?;
    let driver = Arc::new(DockerDriver { parts: Arc::new(parts), watchers: Mutex::default(), turns: Mutex::default() });
    if let Err(error) = driver.parts.sweep().await {
        // The next start tries again.
        tracing::warn!("networks without hosts could not be removed: {error}");
    }
    // Before any container runs.
    driver.parts.renew_filter().await;
    let all = driver.parts.hosts.list().map_err(|error| Error::internal("look which hosts there are", error))?;
    for instance in all {
        driver.watch(instance);
    }
    tokio::spawn(keep_filter(Arc::downgrade(&driver.parts)));
    Ok(driver)
}

/// Stops every container gracefully, and removes what is not data: containers, networks, mounts, rules of the packet
/// filter. The next start makes them again.
///
/// # Errors
/// Internal: a host cannot be ended.
pub(super) async fn stop_hosts(state_dir: &Path, config: &Config) -> Result<()> {
    let parts = parts(state_dir, config).await?;
    let failed = |error| Error::internal("end a host", error);
    let mut networks = BTreeSet::from([parts.networks.range.control()]);
    for instance in parts.all().await.map_err(failed)? {
        parts.containers.stop(instance).await.map_err(failed)?;
        parts.containers.remove(instance).await.map_err(failed)?;
        Volume::of(&parts.hosts.directory(instance)).unmount().map_err(failed)?;
        networks.extend(parts.hosts.place(instance).map_err(failed)?.map(|place| place.network()));
    }
    for network in networks {
        if let Err(error) = parts.networks.remove(network).await {
            tracing::warn!("the network {network} stays: {error}");
        }
    }
    let firewall = parts.firewall.clone();
    let removed = tokio::task::spawn_blocking(move || firewall.remove()).await;
    removed.map_err(|error| Error::internal("remove the rules of the packet filter", error))
}

/// Refuses a configuration in which containers cannot reach the agents' port.
fn reachable(config: &Config, range: Range) -> Result<String> {
    let address = config.agents_address();
    let is_useless = |at: &SocketAddr| at.ip().is_loopback() || at.ip().is_unspecified();
    if address.parse().is_ok_and(|at| is_useless(&at)) {
        let at = SocketAddr::from((gateway(range.control()), config.agents.listen.port()));
        return Err(Error::BadRequest(format!(
            "agents.listen: containers do not reach {address}. Set agents.listen to {at}, an address that the driver makes, \
             or agents.advertise to another address of this machine."
        )));
    }
    Ok(address)
}

#[allow(clippy::disallowed_methods, reason = "the directory of hosts is this account's")]
async fn parts(state_dir: &Path, config: &Config) -> Result<Parts> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::BadRequest(
            "compute: the docker driver mounts volumes, so the service must run as root.".to_owned(),
        ));
    }
    let docker = engine::connect(&config.docker.socket).await?;
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| Error::internal(format!("find {}", path.display()), error))
    };
    let root = config.docker.volumes_dir.as_deref().map_or_else(|| absolute(&state_dir.join("docker")), absolute)?;
    let made = std::fs::create_dir_all(&root)
        .and_then(|()| std::fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o700)));
    made.map_err(|error| Error::internal(format!("make {}", root.display()), error))?;
    // The kernel's list of mounts names places without links.
    let root =
        std::fs::canonicalize(&root).map_err(|error| Error::internal(format!("find {}", root.display()), error))?;
    let obstacle = tokio::task::spawn_blocking(volume::obstacle).await;
    let obstacle = obstacle.map_err(|error| Error::internal("look for loop devices", error))?;
    if let Some(obstacle) = &obstacle {
        tracing::warn!("volumes of new instances are directories, without a limit by the file system: {obstacle}");
    }
    let (key, range) = (disk::key(&root), Range(config.docker_range()?));
    let networks = Networks { docker: docker.clone(), range, key: key.clone() };
    Ok(Parts {
        firewall: Arc::new(Firewall::new(&key, networks.bridges(), config.agents.listen.port())),
        containers: Containers { docker: docker.clone(), key: key.clone() },
        images: Images::new(docker, key.clone()),
        hosts: Hosts { root },
        networks,
        key,
        obstacle,
    })
}

/// Does work to its end, also when nobody waits for it any more, such as a step whose time is over: Docker does what it was
/// asked in any case, and until then the host stays locked.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = Done<T>> + Send + 'static) -> Done<T> {
    let done = tokio::spawn(work.in_current_span()).await;
    done.map_err(|error| ComputeError::Transient(format!("work on a host: {error}")))?
}

/// What hosts are made with.
struct Parts {
    hosts: Hosts,
    containers: Containers,
    networks: Networks,
    images: Images,
    firewall: Arc<Firewall>,
    /// Of the directory of hosts.
    key: String,
    /// Why volumes cannot be file systems, if so.
    obstacle: Option<String>,
}

pub(super) struct DockerDriver {
    parts: Arc<Parts>,
    watchers: Mutex<HashMap<InstanceId, Watcher>>,
    /// Serialises calls for the same host.
    turns: Mutex<HashMap<InstanceId, Arc<tokio::sync::Mutex<()>>>>,
}

struct Watcher {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

/// Result of [`Parts::ensure_running`].
#[derive(Debug, PartialEq, Eq)]
enum Running {
    Yes,
    /// There is no such host, or it was stopped.
    Gone,
}

impl Parts {
    /// Runs work that may block, on a lock or the disk, on a thread for blocking work.
    async fn off_the_runtime<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Done<T> + Send + 'static,
    ) -> Done<T> {
        let parts = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&parts)).await;
        done.map_err(|error| ComputeError::Transient(format!("work on a host: {error}")))?
    }

    /// All hosts, also those of which only a part is left.
    async fn all(&self) -> Done<BTreeSet<InstanceId>> {
        let mut all: BTreeSet<InstanceId> = self.hosts.list()?.into_iter().collect();
        all.extend(self.containers.list().await?);
        Ok(all)
    }

    async fn renew_filter(self: &Arc<Self>) {
        let renewed = self.off_the_runtime(|parts| {
            parts.firewall.renew(|| parts.hosts.doors());
            Ok(())
        });
        if let Err(error) = renewed.await {
            tracing::error!("the packet filter could not be renewed: {error}");
        }
    }

    /// Writes what the host is made from, with its volume.
    async fn write(self: &Arc<Self>, spec: &HostSpec) -> Done<()> {
        let spec = spec.clone();
        self.off_the_runtime(move |parts| {
            let hosts = &parts.hosts;
            let place = Place { project: spec.project.clone(), address: hosts::address(&spec)? };
            if !hosts.is_there(spec.instance)? {
                let _places = hosts.lock_places()?;
                hosts.put_place(spec.instance, &place)?;
            }
            let Some(_alone) = hosts.lock(spec.instance)? else {
                return Err(ComputeError::Transient("the host was removed meanwhile".to_owned()));
            };
            hosts.raise_fence(spec.instance, spec.fence)?;
            if hosts.place(spec.instance)?.as_ref() != Some(&place) {
                let _places = hosts.lock_places()?;
                hosts.put_place(spec.instance, &place)?;
            }
            let volume = Volume::of(&hosts.directory(spec.instance));
            let gib = spec.size.volume_gib;
            if !hosts.was_whole(spec.instance)? {
                volume.make(gib, parts.obstacle.as_deref())?;
            }
            let is_filesystem = volume.ensure(gib)?;
            hosts.write(&spec, place, is_filesystem)
        })
        .await
    }

    /// Makes and starts the container unless it runs.
    async fn ensure_running(self: &Arc<Self>, instance: InstanceId) -> Done<Running> {
        let Some(guest) = self.off_the_runtime(move |parts| parts.hosts.guest(instance)).await? else {
            return Ok(Running::Gone);
        };
        // Takes long the first time, hence before the lock.
        let name = self.images.ensure(&guest.image).await?;
        let parts = self.clone();
        to_its_end(async move { parts.start(instance, guest.image, name).await }).await
    }

    /// Makes and starts the container, unless it runs, from the image that was brought for it.
    async fn start(self: &Arc<Self>, instance: InstanceId, brought: Image, image: String) -> Done<Running> {
        let locked = self.off_the_runtime(move |parts| parts.hosts.lock(instance)).await?;
        let Some(_alone) = locked else { return Ok(Running::Gone) };
        let Some(guest) = self.off_the_runtime(move |parts| parts.hosts.guest(instance)).await? else {
            return Ok(Running::Gone);
        };
        if self.containers.runs(instance).await? == Some(true) {
            return Ok(Running::Yes);
        }
        if guest.image != brought {
            return Err(ComputeError::Transient("the host was given another image meanwhile".to_owned()));
        }
        let network = guest.place.network();
        self.networks.ensure(network, Some(&guest.place.project)).await?;
        let (volume, gib, directory) = (guest.volume(), guest.volume_gib, self.hosts.directory(instance));
        let fence = self.off_the_runtime(move |_| {
            // A restart of the machine unmounts it.
            volume.ensure(gib)?;
            disk::fence_of(&directory)
        });
        let fence = fence.await?;
        let body = containers::body(&guest, fence, &self.key, image, self.networks.name(network));
        self.containers.start(instance, body).await?;
        Ok(Running::Yes)
    }

    /// Locks a host, if it is there, that nobody has changed under a greater fence. The fence is checked again after each long
    /// step: if this controller stalled, another one may have started the host again.
    async fn lock_under(self: &Arc<Self>, instance: InstanceId, fence: u64) -> Done<Option<Flock<File>>> {
        self.off_the_runtime(move |parts| {
            parts.hosts.check_fence(instance, fence)?;
            let alone = parts.hosts.lock(instance)?;
            parts.hosts.check_fence(instance, fence)?;
            Ok(alone)
        })
        .await
    }

    /// Removes what is not data of a host that was stopped: its container and its mount.
    async fn put_away(self: &Arc<Self>, instance: InstanceId, fence: u64) -> Done<()> {
        let alone = self.lock_under(instance, fence).await?;
        self.containers.remove(instance).await?;
        // Without a lock there is no host, or another one by now.
        let Some(_alone) = alone else { return Ok(()) };
        self.off_the_runtime(move |parts| Volume::of(&parts.hosts.directory(instance)).unmount()).await
    }

    /// Removes a host, which the caller has withdrawn: nobody starts it again.
    async fn delete(self: &Arc<Self>, instance: InstanceId, fence: u64) -> Done<()> {
        let alone = self.lock_under(instance, fence).await?;
        self.containers.remove(instance).await?;
        // Without a lock there is no host, or another one by now.
        let Some(alone) = alone else { return Ok(()) };
        let place = self.off_the_runtime(move |parts| parts.hosts.place(instance)).await?;
        // While the directory is there the network is this host's. If this process is killed in between, the network is
        // removed at the next start.
        self.off_the_runtime(move |parts| parts.hosts.remove(instance)).await?;
        drop(alone);
        self.release(instance, place).await
    }

    /// Removes networks that no host has: a controller was killed before it removed them.
    async fn sweep(self: &Arc<Self>) -> Done<()> {
        let _places = self.off_the_runtime(|parts| parts.hosts.lock_places()).await?;
        let places = self.off_the_runtime(|parts| parts.hosts.places(None)).await?;
        let mut kept: BTreeSet<String> = places.iter().map(|place| self.networks.name(place.network())).collect();
        kept.insert(self.networks.name(self.networks.range.control()));
        self.networks.remove_others(&kept).await
    }

    /// Removes the network of a host that was removed, unless another host has it.
    async fn release(self: &Arc<Self>, instance: InstanceId, place: Option<Place>) -> Done<()> {
        let Some(network) = place.map(|place| place.network()) else { return Ok(()) };
        // Until the network is gone, or seen to be in use, no project is given it.
        let _places = self.off_the_runtime(|parts| parts.hosts.lock_places()).await?;
        let others = self.off_the_runtime(move |parts| parts.hosts.places(Some(instance))).await?;
        if others.iter().any(|other| other.network() == network) {
            return Ok(());
        }
        if let Err(error) = self.networks.remove(network).await {
            // Something else is attached to it. The sweep at the next start tries again.
            tracing::warn!("the network {network} of the last host stays: {error}");
        }
        Ok(())
    }
}

impl DockerDriver {
    fn turn(&self, instance: InstanceId) -> Arc<tokio::sync::Mutex<()>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(instance).or_default().clone()
    }

    /// Starts the task that keeps the host's container running, unless there is one.
    fn watch(&self, instance: InstanceId) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        if watchers.get(&instance).is_some_and(|watcher| !watcher.task.is_finished()) {
            return;
        }
        let cancel = CancellationToken::new();
        let task = tokio::spawn(keep_container(self.parts.clone(), instance, cancel.clone()));
        watchers.insert(instance, Watcher { cancel, task });
    }

    async fn unwatch(&self, instance: InstanceId) {
        let watcher = self.watchers.lock().unwrap_or_else(PoisonError::into_inner).remove(&instance);
        if let Some(watcher) = watcher {
            watcher.cancel.cancel();
            // The task ends soon after its cancellation. A panic in it is logged by the runtime.
            let _ = watcher.task.await;
        }
    }

    async fn withdraw(&self, instance: InstanceId, fence: u64) -> Done<()> {
        self.parts.off_the_runtime(move |parts| parts.hosts.withdraw(instance, fence)).await?;
        self.unwatch(instance).await;
        Ok(())
    }
}

/// Starts the container of a host whenever it does not run, until cancelled.
async fn keep_container(parts: Arc<Parts>, instance: InstanceId, cancel: CancellationToken) {
    let mut delay = FIRST_DELAY;
    loop {
        let begun = std::time::Instant::now();
        match parts.ensure_running(instance).await {
            Ok(Running::Yes) => {}
            // It is half made, stopped, or another controller has removed it.
            Ok(Running::Gone) => return,
            Err(error) => tracing::error!(%instance, "the container cannot be started: {error}"),
        }
        tokio::select! {
            () = parts.containers.await_end(instance) => {}
            () = cancel.cancelled() => return,
        }
        delay = if begun.elapsed() > LONG_LIFE { FIRST_DELAY } else { (delay * 2).min(LAST_DELAY) };
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = cancel.cancelled() => return,
        }
        tracing::warn!(%instance, "a container ended and is started again");
    }
}

/// Renews the packet filter periodically, as long as the driver exists.
async fn keep_filter(parts: Weak<Parts>) {
    loop {
        tokio::time::sleep(FILTER_RENEWAL).await;
        let Some(parts) = parts.upgrade() else { return };
        parts.renew_filter().await;
    }
}

#[async_trait]
impl Compute for DockerDriver {
    fn artifacts(&self) -> ArtifactKind {
        ArtifactKind::Image
    }

    /// Each project has a network of its own, so `nics` are accepted and ignored, since some clients always send one.
    fn check_order(&self, requirements: &Requirements) -> std::result::Result<(), String> {
        check_on_one_machine(requirements)?;
        if requirements.access.is_some() && !self.parts.firewall.holds() {
            return Err("access is impossible: the packet filter of this service's machine cannot be set.".to_owned());
        }
        Ok(())
    }

    async fn choose_address(&self, instance: InstanceId, project: &ProjectId, _port: u16) -> Done<IpAddr> {
        let (others, project) = (self.parts.networks.others().await?, project.clone());
        let chosen = self.parts.off_the_runtime(move |parts| {
            let _places = parts.hosts.lock_places()?;
            // A controller that stalled asks late: the host has its place.
            if parts.hosts.was_whole(instance)?
                && let Some(place) = parts.hosts.place(instance)?
            {
                return Ok(place.address.into());
            }
            let places = parts.hosts.places(Some(instance))?;
            let place = parts.networks.range.choose(&project, &places, &others)?;
            parts.hosts.put_place(instance, &place)?;
            Ok(place.address.into())
        });
        chosen.await
    }

    /// Identifies the directory of hosts; controllers with the same directory share their hosts.
    fn location(&self) -> Result<Option<String>> {
        let place = disk::place(&self.parts.hosts.root);
        place.map(Some).map_err(|error| Error::internal("look at the directory of hosts", error))
    }

    fn separates_tenants(&self) -> std::result::Result<(), &'static str> {
        let holds = self.parts.firewall.holds();
        holds.then_some(()).ok_or("an instance reaches services of the machine that it runs on")
    }

    async fn fetch_programs(&self, artifact: &Artifact) -> Done<()> {
        let Artifact::Image { image, .. } = artifact else { return Ok(()) };
        self.parts.images.ensure(image).await.map(drop)
    }

    async fn forget_programs(&self, kept: BoxFuture<'_, Done<Vec<Image>>>) -> Done<()> {
        let kept = async {
            let (mut kept, own) = (kept.await?, self.parts.off_the_runtime(|parts| parts.hosts.images()).await?);
            kept.extend(own);
            Ok(kept)
        };
        self.parts.images.retain(kept).await
    }

    async fn ensure_host(&self, spec: &HostSpec) -> Done<Placement> {
        let turn = self.turn(spec.instance);
        let _turn = turn.lock().await;
        if let Artifact::Image { image, .. } = &spec.artifact {
            images::file(image)?;
        }
        self.parts.write(spec).await?;
        // The watching task may be about to start the container, too; only one may.
        self.unwatch(spec.instance).await;
        // Before the container runs.
        self.parts.renew_filter().await;
        if self.parts.ensure_running(spec.instance).await? == Running::Gone {
            return Err(ComputeError::Transient("the host was stopped or removed meanwhile".to_owned()));
        }
        self.watch(spec.instance);
        // No driver state is needed: everything is in the host's directory.
        Ok(Placement { addresses: vec![spec.network.address], driver_state: serde_json::Value::Null })
    }

    async fn stop_host(&self, instance: InstanceId, fence: u64) -> Done<()> {
        let turn = self.turn(instance);
        let _turn = turn.lock().await;
        self.withdraw(instance, fence).await?;
        self.parts.containers.stop(instance).await?;
        let parts = self.parts.clone();
        to_its_end(async move { parts.put_away(instance, fence).await }).await
    }

    async fn delete_host(&self, instance: InstanceId, fence: u64) -> Done<()> {
        let turn = self.turn(instance);
        let turned = turn.lock().await;
        self.withdraw(instance, fence).await?;
        let parts = self.parts.clone();
        to_its_end(async move { parts.delete(instance, fence).await }).await?;
        self.parts.renew_filter().await;
        drop(turned);
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waits for his turn has a part in it.
        if Arc::strong_count(&turn) == 2 {
            turns.remove(&instance);
        }
        Ok(())
    }

    async fn describe(&self, instance: InstanceId) -> Done<HostState> {
        let runs = self.parts.containers.runs(instance).await?;
        let (is_there, guest, can_enter) = self
            .parts
            .off_the_runtime(move |parts| {
                let hosts = &parts.hosts;
                let can_enter = ENROLMENT.can_enter(&hosts.directory(instance))?;
                Ok((hosts.is_there(instance)?, hosts.guest(instance)?, can_enter))
            })
            .await?;
        if !is_there && runs.is_none() {
            return Ok(HostState::Absent);
        }
        if guest.is_some() {
            // Another controller may have made the host, so it may not be watched yet.
            self.watch(instance);
        }
        // An agent that has neither certificate nor token cannot connect. Report the host as dead, so that it is made
        // again with a new token.
        let alive = guest.is_some() && runs == Some(true) && can_enter;
        Ok(if alive { HostState::Active } else { HostState::Dead })
    }

    async fn list(&self) -> Done<Vec<InstanceId>> {
        Ok(self.parts.all().await?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests;
