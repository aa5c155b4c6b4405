//! Compute drivers: they make the hosts in which agents and engines run. Every call is idempotent by instance id.
//! Agents behave the same under every driver.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use secrecy::SecretString;
use trove_strategy::Size;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::ids::{InstanceId, ProjectId};
use crate::model::{Artifact, ArtifactKind, Image, Locality, Requirements};
use crate::state::HostState;

mod agent_config;
mod disk;
mod docker;
mod enrolment;
mod lock;
pub mod process;

/// Opens a driver, given the controller's state directory and configuration.
type Open = for<'a> fn(&'a Path, &'a Arc<Config>) -> BoxFuture<'a, Result<Arc<dyn Compute>>>;

/// Stops every host gracefully; all data stays.
type Stop = for<'a> fn(&'a Path, &'a Arc<Config>) -> BoxFuture<'a, Result<()>>;

/// A driver.
struct Driver {
    /// Name in the configuration (`compute`).
    name: &'static str,
    /// What it runs.
    artifacts: ArtifactKind,
    open: Open,
    stop_hosts: Stop,
}

const DRIVERS: &[Driver] = &[
    Driver {
        name: "process",
        artifacts: ArtifactKind::Local,
        open: |state, config| Box::pin(async move { process::open(state, config) }),
        stop_hosts: |state, config| Box::pin(process::stop_hosts(state, config)),
    },
    Driver {
        name: "docker",
        artifacts: ArtifactKind::Image,
        open: |state, config| Box::pin(docker::open(state, config)),
        stop_hosts: |state, config| Box::pin(docker::stop_hosts(state, config)),
    },
];

/// The driver that the configuration names.
fn driver(config: &Config) -> Result<&'static Driver> {
    DRIVERS.iter().find(|driver| driver.name == config.compute).ok_or_else(|| {
        let names: Vec<&str> = DRIVERS.iter().map(|driver| driver.name).collect();
        let text = format!("compute: there is no driver {:?}; there is {}.", config.compute, names.join(", "));
        Error::BadRequest(text)
    })
}

/// Which artifacts the driver that the configuration names runs.
///
/// # Errors
/// 400 if there is no such driver.
pub fn artifacts(config: &Config) -> Result<ArtifactKind> {
    Ok(driver(config)?.artifacts)
}

/// Opens the driver that the configuration names.
///
/// # Errors
/// 400 if there is no such driver; those of the driver.
pub async fn open(state_dir: &Path, config: &Arc<Config>) -> Result<Arc<dyn Compute>> {
    (driver(config)?.open)(state_dir, config).await
}

/// Stops every host of the driver that the configuration names, gracefully. All data stays.
///
/// # Errors
/// As [`open`]; internal: a host cannot be ended.
pub async fn stop_hosts(state_dir: &Path, config: &Arc<Config>) -> Result<()> {
    (driver(config)?.stop_hosts)(state_dir, config).await
}

/// Refuses a configuration whose driver does not run engines that are installed on the machine.
///
/// # Errors
/// 400.
pub fn check_installed(config: &Config) -> Result<()> {
    match driver(config)?.artifacts {
        ArtifactKind::Local => Ok(()),
        ArtifactKind::Image => Err(Error::BadRequest(format!(
            "compute is {:?}, which runs images: name the description (JSON) of one.",
            config.compute
        ))),
    }
}

/// Specification of a host.
#[derive(Clone, Debug)]
pub struct HostSpec {
    pub instance: InstanceId,
    /// Project of the instance.
    pub project: ProjectId,
    /// Fence of the calling operation or reconciler; see [`Compute`].
    pub fence: u64,
    /// Memory, cores and volume of the flavor.
    pub size: Size,
    /// Network, zone and the like from the create request; [`Compute::check_order`] has accepted them.
    pub requirements: Requirements,
    pub network: Network,
    pub bootstrap: Bootstrap,
    /// Programs to run in the host.
    pub artifact: Artifact,
    /// User id of the engine, if hosts share a machine; see [`Compute::reserve_account`].
    pub engine_uid: Option<u32>,
    /// [`Placement::driver_state`] of the last call; null at first.
    pub driver_state: serde_json::Value,
}

/// Addresses of a host.
#[derive(Clone, Debug)]
pub struct Network {
    /// Address on which the engine listens.
    pub address: IpAddr,
    /// Port on which the engine listens.
    pub port: u16,
    /// Port for TLS, for engines that have a separate one.
    pub tls_port: Option<u16>,
}

/// What a new agent needs to find the controllers and to enrol.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Grows when the host is made anew; certificates of an older one are refused.
    pub generation: u64,
    /// Name of the datastore.
    pub datastore: String,
    /// Addresses on which the controllers listen for agents.
    pub controllers: Vec<String>,
    /// Certificate authority of controllers and agents, PEM.
    pub authority_pem: String,
    /// Enrolment token; `None` once the agent has enrolled.
    pub token: Option<SecretString>,
}

/// Result of [`Compute::ensure_host`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Addresses of the engine, [`Network::address`] among them.
    pub addresses: Vec<IpAddr>,
    /// What the driver must remember, such as ids of servers, ports and volumes. It is stored with the instance and
    /// passed in every later [`HostSpec`].
    pub driver_state: serde_json::Value,
}

/// A process of an instance that had bound an address of another instance, and was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Squatter {
    /// Instance to which the process belonged.
    pub instance: InstanceId,
    /// Name and pid, for the event's text.
    pub process: String,
}

/// Error of a driver.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    /// A retry may succeed.
    #[error("{0}")]
    Transient(String),
    /// A retry will not succeed. An operator must act, or the request must change.
    #[error("{0}")]
    Fatal(String),
    /// The host was changed under a greater fence, so the caller has lost its lease. Nothing was changed.
    #[error("fence {fence} is older than {seen}, under which the host was changed")]
    Fenced {
        /// Fence of this call.
        fence: u64,
        /// Greatest fence so far.
        seen: u64,
    },
}

/// Refuses what a driver whose hosts are all on one machine cannot give; see [`Compute::check_order`]. Whom a host lets in
/// differs between such drivers.
fn check_on_one_machine(requirements: &Requirements) -> std::result::Result<(), String> {
    let Requirements { nics: _, access: _, availability_zone, volume_type, locality } = requirements;
    let refusal = if availability_zone.is_some() {
        "availability_zone cannot be chosen: all hosts of this service are on one machine, which has no zones."
    } else if volume_type.is_some() {
        "volume.type cannot be chosen: the volumes of this service have none."
    } else if *locality == Some(Locality::AntiAffinity) {
        "locality anti-affinity is impossible: all hosts of this service are on one machine."
    } else {
        return Ok(());
    };
    Err(refusal.to_owned())
}

/// A compute driver. Every call that changes a host carries a fence: a number that is drawn, greater than all before,
/// whenever an operation or a reconciler begins to work on the instance. The driver stores the greatest fence with the
/// host before it changes anything, and refuses smaller ones until the host is deleted. So a controller that stalled
/// and lost its lease can change nothing.
#[async_trait]
pub trait Compute: Send + Sync {
    /// Which artifacts it runs.
    fn artifacts(&self) -> ArtifactKind;
    /// Checks the requirements of a create request before anything is stored. The error is a sentence that begins with
    /// the field.
    fn check_order(&self, requirements: &Requirements) -> std::result::Result<(), String>;
    /// Chooses an address on which `port` is free now. The caller stores it, with a unique constraint, before it is
    /// used. A driver whose cloud chooses the addresses returns the instance's.
    async fn choose_address(
        &self,
        instance: InstanceId,
        project: &ProjectId,
        port: u16,
    ) -> std::result::Result<IpAddr, ComputeError>;
    /// Reserves a user id for the engine of a host, on the machine, until the host is deleted. A second call returns
    /// the same id, unless it is in `taken`, the ids of other instances. The caller stores it, with a unique
    /// constraint, before it is used. `None` if hosts do not share a machine, or all engines have the account of the
    /// controller.
    async fn reserve_account(
        &self,
        _instance: InstanceId,
        _taken: &BTreeSet<u32>,
    ) -> std::result::Result<Option<u32>, ComputeError> {
        Ok(None)
    }
    /// Kills processes of instances that have bound the address of another instance, and returns them. Called
    /// periodically. A driver whose hosts have separate networks does nothing.
    async fn end_squatters(&self) -> std::result::Result<Vec<Squatter>, ComputeError> {
        Ok(Vec::new())
    }
    /// Kills processes of instances that have bound an address on which the controller must listen. `again` says that
    /// an earlier call did not free the address. Returns `true` if the caller should try to bind again, `false` if the
    /// driver does not know who has the address.
    ///
    /// # Errors
    /// Another process has it; the error names that process.
    async fn free_address(&self, _at: SocketAddr, _again: bool) -> std::result::Result<bool, ComputeError> {
        Ok(false)
    }
    /// If only controllers on one machine reach the hosts: a name of the place where the hosts are. Controllers with
    /// different names must not share a store.
    fn location(&self) -> Result<Option<String>> {
        Ok(None)
    }
    /// Whether a tenant with a shell in the account of his engine is kept away from other tenants' instances.
    ///
    /// # Errors
    /// What he could do to them, in words for tenants.
    fn separates_tenants(&self) -> std::result::Result<(), &'static str>;
    /// Whether root may be handed out: it is a shell as the account that runs the engine. Where hosts are not kept apart, that is a way
    /// to other tenants' data, and to the controller's where it is an ordinary user's; then the configuration has to allow it.
    fn may_have_root(&self, config: &Config) -> bool {
        self.separates_tenants().is_ok() || config.process.allow_root
    }
    /// Brings the programs of hosts to where they run, so that the next start with these is short. A driver that has them
    /// there anyway does nothing.
    async fn fetch_programs(&self, _artifact: &Artifact) -> std::result::Result<(), ComputeError> {
        Ok(())
    }
    /// Removes programs that it has brought there, but those of these images and of its hosts. It asks which are kept after it
    /// has looked what is there. A driver that brings none does nothing, nor does one that is bringing some right now.
    async fn forget_programs(
        &self,
        _kept: BoxFuture<'_, std::result::Result<Vec<Image>, ComputeError>>,
    ) -> std::result::Result<(), ComputeError> {
        Ok(())
    }
    /// Makes the host with its volume and starts the agent, unless it is there. Grows the volume to the size in `spec`;
    /// memory, cores and programs take effect at the next start. While the host exists, the driver restarts an agent that dies.
    /// The caller stores the result; after a crash the call may be repeated before that.
    async fn ensure_host(&self, spec: &HostSpec) -> std::result::Result<Placement, ComputeError>;
    /// Ends every process of the host, gracefully if possible, and keeps its volume. The host stays stopped until
    /// [`Compute::ensure_host`]. An absent host counts as stopped.
    async fn stop_host(&self, instance: InstanceId, fence: u64) -> std::result::Result<(), ComputeError>;
    /// Kills every process of the host, removes its volume, sockets, shared memory and cgroups, and releases its
    /// account last. An absent host counts as deleted.
    async fn delete_host(&self, instance: InstanceId, fence: u64) -> std::result::Result<(), ComputeError>;
    /// State of the host.
    async fn describe(&self, instance: InstanceId) -> std::result::Result<HostState, ComputeError>;
    /// All hosts that the driver knows, so that hosts without an instance can be found.
    async fn list(&self) -> std::result::Result<Vec<InstanceId>, ComputeError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_driver_that_there_is_not_is_refused_with_those_that_there_are() {
        let config = Arc::new(Config { compute: "clouds".to_owned(), ..Config::default() });
        let refused = open(Path::new("/nowhere"), &config).await.err().unwrap().to_string();
        assert!(refused.contains("clouds") && refused.contains("process"), "{refused}");
    }
}
