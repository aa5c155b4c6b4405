//! The effective configuration: defaults, then the file, then the environment (`TROVE_<SECTION>__<OPTION>`).
//!
//! The meaning of each option is in `documented.rs`, from which `config show` prints it; a test checks that none is missing.

pub mod documented;
mod load;
mod secret;
mod storages;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

pub use self::secret::read_secret;
pub use self::storages::{S3, StorageKind, Swift};
use crate::model::{Flavor, Resource};

/// All options.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub region: String,
    pub default_datastore: Option<String>,
    pub root_on_create: bool,
    pub max_accepted_volume_size: u64,
    pub compute: String,
    pub datastores: Datastores,
    pub api: Api,
    pub agents: AgentsSection,
    pub identity: Identity,
    pub store: Store,
    pub operations: Operations,
    pub backups: Backups,
    pub s3: S3,
    pub swift: Swift,
    pub keystone: Keystone,
    pub quota: Quota,
    pub rate_limits: RateLimits,
    pub metrics: Metrics,
    pub flavors: Vec<Flavor>,
    pub process: Process,
    pub docker: Docker,
    pub log: Log,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    pub listen: SocketAddr,
    pub public_url: Option<String>,
    pub tls_by_proxy: bool,
    pub cors_origins: Vec<String>,
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    #[serde(with = "humantime_serde")]
    pub answer_within: Duration,
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    pub max_connections: Option<usize>,
    pub max_connections_per_source: Option<usize>,
    pub trusted_proxies: Vec<IpAddr>,
}

/// The controller's side of the agents' connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentsSection {
    pub listen: SocketAddr,
    pub advertise: Option<String>,
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub heartbeat_expiry: Duration,
    #[serde(with = "humantime_serde")]
    pub probe_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub certificate_lifetime: Duration,
    #[serde(with = "humantime_serde")]
    pub token_lifetime: Duration,
}

/// Which tokens are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Tokens of the built-in identity.
    #[default]
    Builtin,
    /// Tokens of a real Keystone.
    Keystone,
}

/// The real Keystone, and the service's own user there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keystone {
    pub auth_url: String,
    pub www_authenticate_uri: Option<String>,
    pub username: String,
    #[serde(skip_serializing)]
    pub password: Option<SecretString>,
    pub password_file: Option<PathBuf>,
    pub user_domain_name: String,
    pub project_name: String,
    pub project_domain_name: String,
    pub ca_file: Option<PathBuf>,
    #[serde(with = "humantime_serde")]
    pub cache_lifetime: Duration,
    pub cache_size: usize,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

/// Authentication and authorisation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {
    pub mode: Mode,
    pub policy_file: Option<PathBuf>,
    #[serde(with = "humantime_serde")]
    pub token_lifetime: Duration,
    pub users: Vec<User>,
}

/// A user of the built-in identity.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub name: String,
    pub password_hash: String,
    pub project: String,
    pub roles: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    pub url: Option<String>,
    pub password_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Operations {
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    pub paused: bool,
}

/// Where backups lie, and who can open them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Backups {
    pub storage: StorageKind,
    pub directory: Option<PathBuf>,
    pub recipients: Vec<String>,
    pub segment_mib: u64,
    #[serde(with = "humantime_serde")]
    pub grant_lifetime: Duration,
    #[serde(with = "humantime_serde")]
    pub log_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub log_idle_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub least_schedule_interval: Duration,
    pub scheduled_at_once: u32,
}

/// Default quotas of a project; -1 is unlimited.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    pub max_instances_per_tenant: i64,
    pub max_ram_per_tenant: i64,
    pub max_volumes_per_tenant: i64,
    pub max_backups_per_tenant: i64,
    /// Configuration groups.
    pub max_configurations_per_tenant: i64,
}

/// Requests per minute of one project at one controller; 0 is unlimited.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimits {
    pub get: u32,
    pub post: u32,
    pub put: u32,
    pub delete: u32,
    pub mgmt_post: u32,
}

/// Rules for all datastores.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Datastores {
    pub only: Vec<String>,
    pub allow_open: Vec<String>,
    pub tls: TlsMode,
}

/// Whether engines require TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// TLS is offered; clear connections are accepted, too.
    #[default]
    Basic,
    /// Clear connections are refused.
    Enforced,
}

/// Metrics for Prometheus.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    pub listen: Option<SocketAddr>,
    pub allow_remote: bool,
}

/// The process driver.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Process {
    pub address_range: String,
    pub uid_range: String,
    pub engine_account: String,
    pub runtime_dir: Option<PathBuf>,
    pub hosts_dir: Option<PathBuf>,
    pub agent_program: Option<PathBuf>,
    pub allow_root: bool,
}

/// The Docker driver.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Docker {
    pub socket: PathBuf,
    pub address_range: String,
    pub volumes_dir: Option<PathBuf>,
}

/// Logging, to standard error.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub filter: String,
    pub json: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            region: "RegionOne".to_owned(),
            default_datastore: None,
            compute: "process".to_owned(),
            root_on_create: false,
            max_accepted_volume_size: 10,
            datastores: Datastores::default(),
            api: Api::default(),
            agents: AgentsSection::default(),
            identity: Identity::default(),
            store: Store::default(),
            operations: Operations::default(),
            backups: Backups::default(),
            s3: S3::default(),
            swift: Swift::default(),
            keystone: Keystone::default(),
            quota: Quota::default(),
            rate_limits: RateLimits::default(),
            metrics: Metrics::default(),
            flavors: vec![flavor("1", 512, 1), flavor("2", 1024, 1), flavor("3", 2048, 2), flavor("4", 4096, 2)],
            process: Process::default(),
            docker: Docker::default(),
            log: Log::default(),
        }
    }
}

fn flavor(id: &str, ram_mib: u64, vcpus: u32) -> Flavor {
    Flavor { id: id.to_owned(), name: format!("m{ram_mib}"), ram_mib, vcpus }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8779)),
            public_url: None,
            tls_by_proxy: false,
            cors_origins: Vec::new(),
            tls_certificate: None,
            tls_key: None,
            answer_within: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30),
            max_connections: None,
            max_connections_per_source: None,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Default for AgentsSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8778)),
            advertise: None,
            heartbeat_interval: Duration::from_secs(10),
            heartbeat_expiry: Duration::from_secs(90),
            probe_interval: Duration::from_secs(5),
            certificate_lifetime: Duration::from_secs(7 * 24 * 3600),
            token_lifetime: Duration::from_secs(15 * 60),
        }
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self { mode: Mode::Builtin, policy_file: None, token_lifetime: Duration::from_secs(3600), users: Vec::new() }
    }
}

impl Default for Keystone {
    fn default() -> Self {
        Self {
            auth_url: String::new(),
            www_authenticate_uri: None,
            username: String::new(),
            password: None,
            password_file: None,
            user_domain_name: "Default".to_owned(),
            project_name: "service".to_owned(),
            project_domain_name: "Default".to_owned(),
            ca_file: None,
            cache_lifetime: Duration::from_secs(5 * 60),
            cache_size: 10_000,
            timeout: Duration::from_secs(10),
        }
    }
}

impl Keystone {
    /// Base URL of Keystone's v3 API, without a slash at its end.
    pub fn v3_url(&self) -> String {
        let url = self.auth_url.trim_end_matches('/');
        if url.ends_with("/v3") { url.to_owned() } else { format!("{url}/v3") }
    }

    /// URL at which users log in.
    pub fn public_url(&self) -> String {
        self.www_authenticate_uri.clone().unwrap_or_else(|| self.v3_url())
    }
}

impl Default for Operations {
    fn default() -> Self {
        Self { lease: Duration::from_secs(30), paused: false }
    }
}

impl Default for Backups {
    fn default() -> Self {
        Self {
            storage: StorageKind::Fs,
            directory: None,
            recipients: Vec::new(),
            segment_mib: 16,
            grant_lifetime: Duration::from_secs(5 * 60),
            log_interval: Duration::from_secs(10),
            log_idle_interval: Duration::from_secs(60),
            least_schedule_interval: Duration::from_secs(15 * 60),
            scheduled_at_once: 4,
        }
    }
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            max_instances_per_tenant: 10,
            max_ram_per_tenant: -1,
            max_volumes_per_tenant: 40,
            max_backups_per_tenant: 50,
            max_configurations_per_tenant: 50,
        }
    }
}

impl Quota {
    /// What a project may have of which nothing else is said.
    pub fn limit(&self, resource: Resource) -> i64 {
        match resource {
            Resource::Instances => self.max_instances_per_tenant,
            Resource::Ram => self.max_ram_per_tenant,
            Resource::Volumes => self.max_volumes_per_tenant,
            Resource::Backups => self.max_backups_per_tenant,
            Resource::Configurations => self.max_configurations_per_tenant,
        }
    }
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { get: 200, post: 200, put: 200, delete: 200, mgmt_post: 200 }
    }
}

impl Default for Process {
    fn default() -> Self {
        Self {
            address_range: "127.64.0.0/10".to_owned(),
            uid_range: "70000-99999".to_owned(),
            engine_account: "trove".to_owned(),
            runtime_dir: None,
            hosts_dir: None,
            agent_program: None,
            allow_root: false,
        }
    }
}

impl Default for Docker {
    fn default() -> Self {
        Self { socket: PathBuf::from("/run/docker.sock"), address_range: "10.213.0.0/16".to_owned(), volumes_dir: None }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), json: false }
    }
}

impl Config {
    /// Base URL of links and of the service catalog, without a slash at its end.
    pub fn public_url(&self) -> String {
        let scheme = if self.api.tls_certificate.is_some() { "https" } else { "http" };
        let url = self.api.public_url.clone().unwrap_or_else(|| format!("{scheme}://{}", self.api.listen));
        url.trim_end_matches('/').to_owned()
    }

    /// The address that agents are given.
    pub fn agents_address(&self) -> String {
        self.agents.advertise.clone().unwrap_or_else(|| self.agents.listen.to_string())
    }
}
