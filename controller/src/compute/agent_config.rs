//! The agent's configuration file, which a driver writes for each host; `agent/src/config.rs` reads it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use trove_strategy::Installation;

use super::HostSpec;
use crate::ids::InstanceId;

/// The whole file. Relative paths are relative to the file's directory.
#[derive(Serialize)]
pub(super) struct AgentConfig<'a> {
    pub(super) instance_id: InstanceId,
    pub(super) generation: u64,
    pub(super) datastore: &'a str,
    pub(super) controllers: &'a [String],
    pub(super) authority_file: PathBuf,
    pub(super) token_file: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) volume_dir: PathBuf,
    pub(super) config_dir: PathBuf,
    pub(super) run_dir: PathBuf,
    pub(super) log_dir: PathBuf,
    pub(super) bindir: &'a Path,
    pub(super) major: &'a str,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) memory_mib: u64,
    pub(super) vcpus: u32,
    pub(super) volume_gib: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) engine_uid: Option<u32>,
    pub(super) cgroups: Vec<PathBuf>,
    pub(super) engine_cgroups: Vec<PathBuf>,
}

impl<'a> AgentConfig<'a> {
    /// What the specification decides. The driver adds the paths.
    pub(super) fn of(spec: &'a HostSpec, installation: &'a Installation) -> Self {
        Self {
            instance_id: spec.instance,
            generation: spec.bootstrap.generation,
            datastore: &spec.bootstrap.datastore,
            controllers: &spec.bootstrap.controllers,
            authority_file: PathBuf::new(),
            token_file: PathBuf::new(),
            state_dir: PathBuf::new(),
            volume_dir: PathBuf::new(),
            config_dir: PathBuf::new(),
            run_dir: PathBuf::new(),
            log_dir: PathBuf::new(),
            bindir: &installation.bindir,
            major: &installation.major,
            address: spec.network.address,
            port: spec.network.port,
            memory_mib: spec.size.memory_mib,
            vcpus: spec.size.vcpus,
            volume_gib: spec.size.volume_gib,
            engine_uid: None,
            cgroups: Vec::new(),
            engine_cgroups: Vec::new(),
        }
    }

    /// As TOML.
    pub(super) fn text(&self) -> Result<String, super::ComputeError> {
        toml::to_string(self)
            .map_err(|error| super::ComputeError::Fatal(format!("write the agent's configuration: {error}")))
    }
}
