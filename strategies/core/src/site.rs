//! Where an engine lives in its guest: its installation, directories, address and size.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::location::{Directory, Location};
use crate::real_host::{Places, RealHost};

/// An engine as it is installed on the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Installation {
    /// The whole version that the engine's own program reports, such as `15.18`.
    pub version: String,
    /// The part of the version within which data directories are compatible, such as `15`.
    pub major: String,
    /// The directory of the engine's server programs.
    pub bindir: PathBuf,
}

impl Installation {
    /// A version, the part of it within which data is compatible, and where its programs are.
    pub fn new(version: impl Into<String>, major: impl Into<String>, bindir: impl Into<PathBuf>) -> Self {
        Self { version: version.into(), major: major.into(), bindir: bindir.into() }
    }
}

/// The size that was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Memory of the guest, MiB.
    pub memory_mib: u64,
    /// Cores of the guest.
    pub vcpus: u32,
    /// Size of the data volume, GiB.
    pub volume_gib: u64,
}

/// The files of the engine's own certificate, signed by the engines' authority. All exist before the first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM of the server certificate.
    pub certificate: Location,
    /// PEM of its private key: the agent's, readable by the engine's group.
    pub key: Location,
    /// PEM of the engines' authority, which is what tenants trust.
    pub authority: Location,
}

impl Default for TlsFiles {
    /// Where they are in every site.
    fn default() -> Self {
        let at = |name: &str| Directory::Config.join(name);
        Self { certificate: at("server.pem"), key: at("server-key.pem"), authority: at("authority.pem") }
    }
}

/// Everything a strategy needs to know about the place it works in. The agent makes the directories before it calls.
#[derive(Clone)]
#[non_exhaustive]
pub struct Site {
    /// The engine that is installed here.
    pub installation: Installation,
    /// Data of the engine: `<volume>/<major>/data`. Its parent exists; the strategy makes the directory itself.
    pub data: PathBuf,
    /// Configuration files, outside the data directory so that a physical copy does not carry them along. Owned by the
    /// agent, mode 0750 with the engine's group: the engine reads them and cannot change them.
    pub config: PathBuf,
    /// Sockets and pid files: short (a socket's path has at most 107 bytes) and 0700 of the engine's account.
    pub run: PathBuf,
    /// The engine's output, 0700 of the agent's account: the engine gets the file open.
    pub log: PathBuf,
    /// Files that outlive the engine and that only the agent reads (passwords of its own account, say), 0700 of the
    /// agent's account.
    pub secrets: PathBuf,
    /// Where the engine listens for tenants.
    pub address: IpAddr,
    /// The port it listens on there.
    pub port: u16,
    /// What was ordered.
    pub size: Size,
    /// The number of this server, which no other has: for engines whose logs of changes name who made them. It comes with
    /// the assignment; 0 before there is one. What is configured and started has it.
    pub server_id: u32,
    /// The engine's certificate.
    pub tls: TlsFiles,
    /// Name of the operating-system account that runs the engine.
    pub engine_account: String,
    /// Name of the operating-system account that runs the agent; engines that map accounts let it in as `os_admin`.
    pub agent_account: String,
    /// The hands: commands and files go through it.
    pub host: Arc<dyn Host>,
}

impl Site {
    /// A site in these places on this machine, with its certificate where every site has it.
    pub fn new(
        installation: Installation,
        places: Places,
        address: IpAddr,
        port: u16,
        size: Size,
        host: &RealHost,
    ) -> Self {
        Self {
            installation,
            data: places.data.join("data"),
            config: places.config,
            run: places.run,
            log: places.log,
            secrets: places.secrets,
            address,
            port,
            size,
            server_id: 0,
            tls: TlsFiles::default(),
            engine_account: host.engine.name.clone(),
            agent_account: host.agent.name.clone(),
            host: Arc::new(host.clone()),
        }
    }

    /// The path of a place, for what the engine itself reads: its arguments and its configuration. The agent works on
    /// files through [`Site::host`] alone.
    pub fn path(&self, at: &Location) -> PathBuf {
        let volume = || self.data.parent().unwrap_or(&self.data);
        match at.directory {
            Directory::Data => volume().join(&at.path),
            Directory::Config => self.config.join(&at.path),
            Directory::Run => self.run.join(&at.path),
            Directory::Log => self.log.join(&at.path),
            Directory::Secrets => self.secrets.join(&at.path),
        }
    }
}
