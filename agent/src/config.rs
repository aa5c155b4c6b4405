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

/// All of it. Relative paths are relative to the file's directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The instance that this guest is for.
    pub instance_id: Uuid,
    /// The host's generation.
    pub generation: u64,
    /// The datastore to run.
    pub datastore: String,
    /// Controllers' agents' addresses, `host:port`, until an assignment says others.
    pub controllers: Vec<String>,
    /// PEM of the authority of controllers and agents.
    pub authority_file: PathBuf,
    /// The enrolment token; removed after it was used.
    pub token_file: PathBuf,
    /// What the agent itself keeps.
    pub state_dir: PathBuf,
    /// The data volume.
    pub volume_dir: PathBuf,
    /// The engine's configuration files.
    pub config_dir: PathBuf,
    /// The engine's sockets.
    pub run_dir: PathBuf,
    /// The engine's output.
    pub log_dir: PathBuf,
    /// The engine's programs; the newest that is installed when absent.
    pub bindir: Option<PathBuf>,
    /// Which of several installed versions.
    pub major: Option<String>,
    /// Where the engine listens.
    pub address: IpAddr,
    /// The port it listens on.
    pub port: u16,
    /// Memory of the guest, MiB.
    pub memory_mib: u64,
    /// Cores of the guest.
    pub vcpus: u32,
    /// Size of the volume, GiB.
    pub volume_gib: u64,
    /// The account that runs the engine, user and group; the agent's own when absent.
    pub engine_uid: Option<u32>,
    /// cgroup directories to join before anything is started.
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
    /// cgroup directories of everything that runs as the engine's account; the agent's own when absent.
    #[serde(default)]
    pub engine_cgroups: Vec<PathBuf>,
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or an option is wrong: the message names it.
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

    /// Every path that may be relative.
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
