//! Containers: one for each host, with the image's files read-only. What is written is on the volume and in directories
//! of the host.

use std::collections::HashMap;
use std::path::PathBuf;

use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, HostConfigLogConfig, Mount, MountType,
    NetworkingConfig,
};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, ListContainersOptions, RemoveContainerOptions,
    StartContainerOptions, StopContainerOptions, WaitContainerOptions,
};
use futures::StreamExt as _;

use super::engine::{failed, if_there};
use super::hosts::{FENCE, GENERATION, Guest, INSTANCE, STATE};
use crate::compute::ComputeError;
use crate::ids::InstanceId;

/// Memory and processes of the agent, in addition to the flavor's.
const AGENT_MIB: u64 = 64;
const AGENT_PROCESSES: u64 = 64;
/// Limits of processes and threads, as in the process driver.
const LEAST_PROCESSES: u64 = 128;
const MOST_PROCESSES: u64 = 1024;
/// Time that the agent and its engine have to end gracefully, seconds.
const ORDERLY_S: i32 = 75;

/// What the agent, which is root in the container, needs: it gives files to the engine's account, works on them, starts
/// and signals processes of that account and looks into them. The engine's account has none.
const CAPABILITIES: [&str; 7] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID", "SYS_PTRACE"];

/// Directories that are empty at each start, in memory.
const VOLATILE: [(&str, &str); 2] =
    [("/run", "rw,nosuid,nodev,noexec,mode=755,size=16m"), ("/tmp", "rw,nosuid,nodev,noexec,mode=1777,size=64m")];

pub(super) fn name(instance: InstanceId) -> String {
    format!("trove-{instance}")
}

fn bytes(mib: u64) -> Option<i64> {
    i64::try_from(mib.saturating_mul(1 << 20)).ok()
}

/// The container of a host. `image` and `network` are the engine's names.
pub(super) fn body(guest: &Guest, fence: u64, key: &str, image: String, network: String) -> ContainerCreateBody {
    let memory = bytes(guest.memory_mib + AGENT_MIB);
    let processes = (LEAST_PROCESSES + guest.memory_mib / 2).min(MOST_PROCESSES) + AGENT_PROCESSES;
    let vcpus = i64::from(guest.vcpus.max(1));
    let bind = |(source, target): &(PathBuf, &'static str)| Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some((*target).to_owned()),
        ..Mount::default()
    };
    let log = HashMap::from([("max-size", "10m"), ("max-file", "2")]);
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let host_config = HostConfig {
        memory,
        // No swap.
        memory_swap: memory,
        nano_cpus: Some(vcpus * 1_000_000_000),
        cpu_shares: Some(1024 * vcpus),
        pids_limit: i64::try_from(processes).ok(),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
        security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
        readonly_rootfs: Some(true),
        tmpfs: Some(VOLATILE.into_iter().map(owned).collect()),
        // Shared memory counts as memory in any case.
        shm_size: bytes(guest.memory_mib / 2),
        mounts: Some(guest.binds().iter().map(bind).collect()),
        network_mode: Some(network.clone()),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(log.into_iter().map(owned).collect()),
        }),
        ..HostConfig::default()
    };
    let endpoint = EndpointSettings {
        ipam_config: Some(EndpointIpamConfig {
            ipv4_address: Some(guest.place.address.to_string()),
            ..EndpointIpamConfig::default()
        }),
        ..EndpointSettings::default()
    };
    let labels = [
        (INSTANCE, guest.instance.to_string()),
        (FENCE, fence.to_string()),
        (GENERATION, guest.generation.to_string()),
        (STATE, key.to_owned()),
    ];
    ContainerCreateBody {
        hostname: Some(guest.instance.to_string()),
        user: Some("0:0".to_owned()),
        env: Some(vec![
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            "LANG=C.UTF-8".to_owned(),
        ]),
        entrypoint: Some(
            ["/usr/bin/trove-agent", "init", "--config", "/etc/trove-agent/agent.toml"].map(str::to_owned).to_vec(),
        ),
        working_dir: Some("/".to_owned()),
        image: Some(image),
        labels: Some(labels.map(|(name, value)| (name.to_owned(), value)).into()),
        host_config: Some(host_config),
        networking_config: Some(NetworkingConfig { endpoints_config: Some(HashMap::from([(network, endpoint)])) }),
        ..ContainerCreateBody::default()
    }
}

#[derive(Clone)]
pub(super) struct Containers {
    pub(super) docker: Docker,
    /// Of the directory of hosts.
    pub(super) key: String,
}

impl Containers {
    /// Whether the container runs; `None` if there is none.
    pub(super) async fn runs(&self, instance: InstanceId) -> Result<Option<bool>, ComputeError> {
        let found = self.docker.inspect_container(&name(instance), None::<InspectContainerOptions>).await;
        let found = if_there(found).map_err(failed("look for a container"))?;
        Ok(found.map(|found| found.state.and_then(|state| state.running).unwrap_or(false)))
    }

    /// Makes and starts a container in place of one that does not run.
    pub(super) async fn start(&self, instance: InstanceId, body: ContainerCreateBody) -> Result<(), ComputeError> {
        self.remove(instance).await?;
        let name = name(instance);
        let options = CreateContainerOptions { name: Some(name.clone()), ..CreateContainerOptions::default() };
        self.docker.create_container(Some(options), body).await.map_err(failed("make a container"))?;
        self.docker.start_container(&name, None::<StartContainerOptions>).await.map_err(failed("start a container"))
    }

    /// Stops it gracefully, if it runs.
    pub(super) async fn stop(&self, instance: InstanceId) -> Result<(), ComputeError> {
        let options = StopContainerOptions { t: Some(ORDERLY_S), ..StopContainerOptions::default() };
        match if_there(self.docker.stop_container(&name(instance), Some(options)).await) {
            // It does not run.
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 304, .. }) => Ok(()),
            stopped => stopped.map(drop).map_err(failed("stop a container")),
        }
    }

    /// Kills and removes it, if it is there.
    pub(super) async fn remove(&self, instance: InstanceId) -> Result<(), ComputeError> {
        let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        let removed = if_there(self.docker.remove_container(&name(instance), Some(options)).await);
        removed.map(drop).map_err(failed("remove a container"))
    }

    /// Waits until it does not run, or cannot be waited for.
    pub(super) async fn await_end(&self, instance: InstanceId) {
        let mut waiting = Box::pin(self.docker.wait_container(&name(instance), None::<WaitContainerOptions>));
        // Also an exit status other than 0 is an error here.
        while let Some(Ok(_)) = waiting.next().await {}
    }

    /// The hosts of all containers of this directory of hosts.
    pub(super) async fn list(&self) -> Result<Vec<InstanceId>, ComputeError> {
        let label = format!("{STATE}={}", self.key);
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([("label".to_owned(), vec![label])])),
            ..ListContainersOptions::default()
        };
        let all = self.docker.list_containers(Some(options)).await.map_err(failed("list the containers"))?;
        let instances = all.into_iter().filter_map(|one| one.labels?.remove(INSTANCE));
        Ok(instances.filter_map(|instance| instance.parse().ok()).collect())
    }
}
