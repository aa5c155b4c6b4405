//! Networks: a bridge for each network of addresses that has hosts. The engine lets no packet from one bridge to another.

use std::collections::{BTreeSet, HashMap};

use bollard::Docker;
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptions};
use ipnet::Ipv4Net;

use super::addresses::{Range, gateway};
use super::engine::{failed, if_there};
use super::hosts::STATE;
use crate::compute::ComputeError;
use crate::ids::ProjectId;

/// Label with the project.
const PROJECT: &str = "trove-rs.project";

#[derive(Clone)]
pub(super) struct Networks {
    pub(super) docker: Docker,
    pub(super) range: Range,
    /// Of the directory of hosts.
    pub(super) key: String,
}

impl Networks {
    pub(super) fn name(&self, network: Ipv4Net) -> String {
        format!("trove-{}-{}", self.key, network.network())
    }

    /// How the names of all bridges begin. An interface's name has at most 15 bytes.
    pub(super) fn bridges(&self) -> String {
        format!("trv{}", &self.key[..6])
    }

    /// Makes the network of a project, or that of the controllers' address, unless it is there. One of another project was
    /// left over by a controller that was killed, since its hosts are gone, and is removed.
    pub(super) async fn ensure(&self, network: Ipv4Net, project: Option<&ProjectId>) -> Result<(), ComputeError> {
        let name = self.name(network);
        let found = self.docker.inspect_network(&name, None::<InspectNetworkOptions>).await;
        if let Some(found) = if_there(found).map_err(failed("look for a network"))? {
            let owner = found.labels.unwrap_or_default().remove(PROJECT);
            if owner.as_ref() == project.map(|project| &project.0) {
                return Ok(());
            }
            self.remove(network).await?;
        }
        let mut labels = HashMap::from([(STATE.to_owned(), self.key.clone())]);
        labels.extend(project.map(|project| (PROJECT.to_owned(), project.0.clone())));
        let bridge = format!("{}-{:04x}", self.bridges(), self.range.index(network));
        let addresses = IpamConfig {
            subnet: Some(network.to_string()),
            gateway: Some(gateway(network).to_string()),
            ..IpamConfig::default()
        };
        let request = NetworkCreateRequest {
            name,
            driver: Some("bridge".to_owned()),
            ipam: Some(Ipam { config: Some(vec![addresses]), ..Ipam::default() }),
            options: Some(HashMap::from([("com.docker.network.bridge.name".to_owned(), bridge)])),
            labels: Some(labels),
            ..NetworkCreateRequest::default()
        };
        match self.docker.create_network(request).await {
            // Another controller made it at the same time.
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 409, .. }) => Ok(()),
            made => made.map(drop).map_err(failed(&format!("make the network {network}"))),
        }
    }

    /// Removes a network that has no hosts.
    pub(super) async fn remove(&self, network: Ipv4Net) -> Result<(), ComputeError> {
        let removed = if_there(self.docker.remove_network(&self.name(network)).await);
        removed.map(drop).map_err(failed(&format!("remove the network {network}")))
    }

    /// Removes all networks of this directory of hosts but these.
    pub(super) async fn remove_others(&self, kept: &BTreeSet<String>) -> Result<(), ComputeError> {
        let all = self.docker.list_networks(None::<ListNetworksOptions>).await.map_err(failed("list the networks"))?;
        let is_own = |labels: Option<HashMap<String, String>>| labels?.remove(STATE).filter(|key| *key == self.key);
        let own = all.into_iter().filter_map(|network| is_own(network.labels).and(network.name));
        for name in own.filter(|name| !kept.contains(name)) {
            tracing::warn!("the network {name} has no hosts; it is removed");
            if let Err(error) = if_there(self.docker.remove_network(&name).await) {
                tracing::warn!("the network {name} stays: {error}");
            }
        }
        Ok(())
    }

    /// Networks of addresses that the engine has for others.
    pub(super) async fn others(&self) -> Result<Vec<Ipv4Net>, ComputeError> {
        let all = self.docker.list_networks(None::<ListNetworksOptions>).await.map_err(failed("list the networks"))?;
        let is_other = |labels: &Option<HashMap<String, String>>| {
            labels.as_ref().is_none_or(|labels| labels.get(STATE) != Some(&self.key))
        };
        let others = all.into_iter().filter(|network| is_other(&network.labels));
        let subnets = others.filter_map(|network| network.ipam?.config).flatten().filter_map(|config| config.subnet);
        Ok(subnets.filter_map(|subnet| subnet.parse().ok()).collect())
    }
}
