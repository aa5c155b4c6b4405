//! The configuration file that the compute driver writes for each guest.

#![allow(
    clippy::disallowed_methods,
    reason = "the configuration is written by whoever makes the guest, outside of what engines change"
)]

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use uuid::Uuid;

/// The whole file. Relative paths are relative to the file's directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub instance_id: Uuid,
    /// Generation of the host. It grows when the host is made anew; certificates of an older one are refused.
    pub generation: u64,
    /// Name of the datastore to run.
    pub datastore: String,
    /// Addresses on which controllers listen for agents, `host:port`, until an assignment names others.
    pub controllers: Vec<String>,
    /// PEM file with the certificate authority of controllers and agents.
    pub authority_file: PathBuf,
    /// File with the enrolment token; removed after use.
    pub token_file: PathBuf,
    /// The agent's own state.
    pub state_dir: PathBuf,
    /// Mount point of the data volume.
    pub volume_dir: PathBuf,
    /// Directory of the engine's configuration files.
    pub config_dir: PathBuf,
    /// Directory of the engine's sockets.
    pub run_dir: PathBuf,
    /// Directory of the engine's log.
    pub log_dir: PathBuf,
    /// Directory of the engine's programs; when absent, that of the newest installed version.
    pub bindir: Option<PathBuf>,
    /// Major version to run, where several are installed.
    pub major: Option<String>,
    /// Address on which the engine listens.
    pub address: IpAddr,
    pub port: u16,
    /// Memory of the guest, MiB.
    pub memory_mib: u64,
    /// Cores of the guest.
    pub vcpus: u32,
    /// Size of the volume, GiB.
    pub volume_gib: u64,
    /// The account that runs the engine, user and group; the agent's own when absent.
    pub engine_uid: Option<u32>,
    /// cgroup directories that the agent joins before it starts anything.
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
    /// cgroup directories for every process of the engine's account; the agent's own when absent.
    #[serde(default)]
    pub engine_cgroups: Vec<PathBuf>,
}

impl Config {
    /// Reads the file. The error names the wrong option.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let mut config: Self = toml::from_str(&text).with_context(|| format!("parse {}", file.display()))?;
        let file = std::path::absolute(file).with_context(|| format!("find {}", file.display()))?;
        let base = file.parent().unwrap_or(Path::new("/"));
        for path in config.paths() {
            *path = base.join(&path);
        }
        Ok(config)
    }

    /// All paths that may be relative.
    fn paths(&mut self) -> [&mut PathBuf; 7] {
        [
            &mut self.authority_file,
            &mut self.token_file,
            &mut self.state_dir,
            &mut self.volume_dir,
            &mut self.config_dir,
            &mut self.run_dir,
            &mut self.log_dir,
        ]
    }
}
