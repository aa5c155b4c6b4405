//! Hosts for agents. Every verb is idempotent by instance id. The agent's behaviour is the same under every driver.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;
use trove_strategy::Size;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::model::{Artifact, Requirements};
use crate::state::HostState;

pub mod process;

/// Opens a driver, from the controller's state directory and the configuration.
type Open = fn(&Path, &Arc<Config>) -> Result<Arc<dyn Compute>>;

/// The drivers that there are, by the name that the configuration gives (`compute`).
const DRIVERS: &[(&str, Open)] = &[("process", process::open)];

/// Opens the driver that the configuration names.
///
/// # Errors
/// 400: there is none of this name; and the driver's.
pub fn open(state_dir: &Path, config: &Arc<Config>) -> Result<Arc<dyn Compute>> {
    let Some((_, open)) = DRIVERS.iter().find(|(name, _)| *name == config.compute) else {
        let names: Vec<&str> = DRIVERS.iter().map(|(name, _)| *name).collect();
        let text = format!("compute: there is no driver {:?}; there is {}.", config.compute, names.join(", "));
        return Err(Error::BadRequest(text));
    };
    open(state_dir, config)
}

/// What a host is to be.
#[derive(Clone, Debug)]
pub struct HostSpec {
    pub instance: InstanceId,
    /// That of the lease under which the host is asked for; see [`Compute`].
    pub fence: u64,
    /// What was ordered.
    pub size: Size,
    /// What else was ordered of it, which [`Compute::check_order`] has let pass.
    pub requirements: Requirements,
    /// Where it is reached.
    pub network: Network,
    /// How its agent finds the controllers and is believed by them.
    pub bootstrap: Bootstrap,
    /// What runs in it.
    pub artifact: Artifact,
    /// The account of its engine on a machine that it shares; see [`Compute::reserve_account`].
    pub engine_uid: Option<u32>,
    /// What the driver said when it made the host, [`Placement::driver_state`]; null at first.
    pub driver_state: serde_json::Value,
}

/// Where a host is reached.
#[derive(Clone, Debug)]
pub struct Network {
    /// Where the engine listens.
    pub address: IpAddr,
    /// The port it listens on.
    pub port: u16,
    /// The other one, of an engine that speaks TLS on a port of its own.
    pub tls_port: Option<u16>,
}

/// How an agent finds the controllers and is believed by them.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Grows when the host is made anew; certificates of an older one are refused.
    pub generation: u64,
    /// The datastore's name.
    pub datastore: String,
    /// Every controller's agents' address.
    pub controllers: Vec<String>,
    /// PEM of the authority of controllers and agents.
    pub authority_pem: String,
    /// The enrolment token; `None` once the agent has enrolled.
    pub token: Option<SecretString>,
}

/// What came of making a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Where its engine is reached; that of [`Network::address`] is among them.
    pub addresses: Vec<IpAddr>,
    /// What the driver must remember of it: ids of servers, ports and volumes. It is stored with the instance, and comes back in
    /// every later [`HostSpec`].
    pub driver_state: serde_json::Value,
}

/// A program of an instance that had taken the address of another, and was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Squatter {
    /// Whose program it was.
    pub instance: InstanceId,
    /// Its name and number, for people.
    pub process: String,
}

/// What a driver could not do.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    /// Asking again may help.
    #[error("{0}")]
    Transient(String),
    /// It cannot be done as it was asked; a person or another request is needed.
    #[error("{0}")]
    Fatal(String),
    /// The host was changed under a greater fence since: whoever asks has lost its lease. Nothing was changed.
    #[error("fence {fence} is older than {seen}, under which the host was changed")]
    Fenced {
        /// What was asked under.
        fence: u64,
        /// The greatest one so far.
        seen: u64,
    },
}

/// A driver. Whatever changes a host is asked for under a fence, a number that is drawn anew whenever somebody begins to
/// decide about the host. The driver keeps the greatest one with the host, from before it changes anything until the host
/// is deleted, and refuses a smaller one: so a controller that has stalled changes nothing any more.
#[async_trait]
pub trait Compute: Send + Sync {
    /// Why no host can be made as an order requires: a sentence that begins with the field. Asked before anything is written.
    fn check_order(&self, requirements: &Requirements) -> std::result::Result<(), String>;
    /// An address on which `port` is free now. It is stored under a unique row before it is used; a driver for which the
    /// cloud chooses the address answers with that of the instance.
    async fn choose_address(&self, instance: InstanceId, port: u16) -> std::result::Result<IpAddr, ComputeError>;
    /// An account of its own for the engine of a host, reserved on the machine until the host is deleted; the same when
    /// it is asked again, but for one among `taken`, which are other instances'. It is stored under a unique row before
    /// it is used. `None` where hosts share no machine, or all accounts are one.
    async fn reserve_account(
        &self,
        _instance: InstanceId,
        _taken: &BTreeSet<u32>,
    ) -> std::result::Result<Option<u32>, ComputeError> {
        Ok(None)
    }
    /// Ends the programs of instances that have taken the address of another, and says which those were. Called all the
    /// time; a driver whose hosts share no addresses finds none.
    async fn end_squatters(&self) -> std::result::Result<Vec<Squatter>, ComputeError> {
        Ok(Vec::new())
    }
    /// Ends the programs of instances that have taken an address of the controller's own, which could not listen there; `again`
    /// where some were ended and it still cannot. `true`: it is worth another try. `false`: the driver knows nothing of it.
    ///
    /// # Errors
    /// What has it is no instance's, and is named.
    async fn free_address(&self, _at: SocketAddr, _again: bool) -> std::result::Result<bool, ComputeError> {
        Ok(false)
    }
    /// Names what its hosts lie on where not every controller reaches them: controllers of two such names share no store.
    fn location(&self) -> Result<Option<String>> {
        Ok(None)
    }
    /// Whether a tenant who has a shell as the account of his engine reaches nothing of another's.
    fn separates_tenants(&self) -> bool;
    /// Makes the host with its volume and starts the agent, or finds it made. A volume that is smaller than `spec` says
    /// grows; memory and cores are those of `spec` from the next start on. An agent that dies later is started again
    /// by the driver for as long as the host is there. What it answers is stored; it may be asked again before that is.
    async fn ensure_host(&self, spec: &HostSpec) -> std::result::Result<Placement, ComputeError>;
    /// Ends every process of the host, in an orderly way where that works, and keeps its volume. It stays stopped until
    /// [`Compute::ensure_host`]; a host that is not there counts as stopped.
    async fn stop_host(&self, instance: InstanceId, fence: u64) -> std::result::Result<(), ComputeError>;
    /// Ends every process of the host and removes it with its volume, sockets, shared memory and cgroup, and gives its
    /// account back last; a host that is not there counts as deleted.
    async fn delete_host(&self, instance: InstanceId, fence: u64) -> std::result::Result<(), ComputeError>;
    /// What there is.
    async fn describe(&self, instance: InstanceId) -> std::result::Result<HostState, ComputeError>;
    /// Every host that the driver knows of, so that leftovers can be found.
    async fn list(&self) -> std::result::Result<Vec<InstanceId>, ComputeError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_there_is_not_is_refused_with_those_that_there_are() {
        let config = Arc::new(Config { compute: "docker".to_owned(), ..Config::default() });
        let refused = open(Path::new("/nowhere"), &config).err().unwrap().to_string();
        assert!(refused.contains("docker") && refused.contains("process"), "{refused}");
    }
}
