//! The effective configuration: defaults, then the file, then the environment (`TROVE_<SECTION>__<OPTION>`).

pub mod documented;
mod load;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::model::Flavor;

/// Everything that can be set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of the region, shown in instances and in the catalog.
    pub region: String,
    /// The datastore that is meant when an order names none; unset: the only one there is, else the order is refused.
    pub default_datastore: Option<String>,
    /// Whether root is enabled by the create operation and its password returned by the create call.
    pub root_on_create: bool,
    /// Greatest volume that can be ordered, GiB.
    pub max_accepted_volume_size: u64,
    /// The driver that makes hosts: `process`.
    pub compute: String,
    /// What is allowed of datastores.
    pub datastores: Datastores,
    /// The public API.
    pub api: Api,
    /// The agents' side.
    pub agents: AgentsSection,
    /// Who may ask.
    pub identity: Identity,
    /// The store.
    pub store: Store,
    /// Operations.
    pub operations: Operations,
    /// The real Keystone, for `identity.mode = "keystone"`.
    pub keystone: Keystone,
    /// What a project may have.
    pub quota: Quota,
    /// How often a project may ask.
    pub rate_limits: RateLimits,
    /// Figures for Prometheus.
    pub metrics: Metrics,
    /// The sizes that local drivers offer.
    pub flavors: Vec<Flavor>,
    /// The process driver.
    pub process: Process,
    /// What is logged.
    pub log: Log,
}

/// The public API.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How clients reach it; links and the catalog are made from it. Unset: `http://<listen>`.
    pub public_url: Option<String>,
    /// Says that a proxy in front speaks TLS, which allows to listen on another than a loopback address in clear.
    pub tls_by_proxy: bool,
    /// Web pages of these origins may use the API from a browser: `https://dashboard.example.org`.
    pub cors_origins: Vec<String>,
    /// PEM certificate chain; with `tls_key` the API speaks TLS itself.
    pub tls_certificate: Option<PathBuf>,
    /// PEM private key.
    pub tls_key: Option<PathBuf>,
    /// How long an answer waits until what was asked for acts, where Trove's does.
    #[serde(with = "humantime_serde")]
    pub answer_within: Duration,
    /// How long a connection may have no request under way, also at its begin; and how long a client may take to read.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Connections at most. Unset: a quarter of the open files that the system allows, at most 8192.
    pub max_connections: Option<usize>,
    /// Connections from one address at most. Unset: a quarter of those.
    pub max_connections_per_source: Option<usize>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
}

/// The agents' side.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentsSection {
    /// Where agents connect to.
    pub listen: SocketAddr,
    /// The address that agents are told, `host:port`. Unset: `listen`.
    pub advertise: Option<String>,
    /// Time between two heartbeats.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// A silent agent counts as an error after this time.
    #[serde(with = "humantime_serde")]
    pub heartbeat_expiry: Duration,
    /// Time between two probes of an engine.
    #[serde(with = "humantime_serde")]
    pub probe_interval: Duration,
    /// Life of an agent's certificate.
    #[serde(with = "humantime_serde")]
    pub certificate_lifetime: Duration,
    /// Life of an enrolment token.
    #[serde(with = "humantime_serde")]
    pub token_lifetime: Duration,
}

/// Whose tokens are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Those of this service's own users.
    #[default]
    Builtin,
    /// Those of a real Keystone.
    Keystone,
}

/// The real Keystone, and the service's own user there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keystone {
    /// Its address, with or without `/v3`.
    pub auth_url: String,
    /// Its address as users know it, for the header of a 401. Unset: `auth_url`.
    pub www_authenticate_uri: Option<String>,
    /// The service's own user.
    pub username: String,
    /// Its password. Never printed.
    #[serde(skip_serializing)]
    pub password: Option<SecretString>,
    /// A file with the password, read at each login.
    pub password_file: Option<PathBuf>,
    /// The domain of the user, by name.
    pub user_domain_name: String,
    /// The project in which the user has the role `service` or `admin`.
    pub project_name: String,
    /// The domain of the project, by name.
    pub project_domain_name: String,
    /// PEM certificates that Keystone's has to come from. Unset: those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// How long a token is believed without asking again: a revoked one is refused after this time.
    #[serde(with = "humantime_serde")]
    pub cache_lifetime: Duration,
    /// Tokens that are remembered at most.
    pub cache_size: usize,
    /// For one request to Keystone.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

/// Who may ask.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {
    /// Whose tokens are accepted.
    pub mode: Mode,
    /// Rules that override the built-in ones: YAML, or JSON where the name ends in `.json`.
    pub policy_file: Option<PathBuf>,
    /// Life of a token.
    #[serde(with = "humantime_serde")]
    pub token_lifetime: Duration,
    /// Users of the built-in identity. Empty: `demo` and `admin` are made at the first start, with passwords in
    /// `clouds.yaml` of the state directory.
    pub users: Vec<User>,
}

/// A user of the built-in identity.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The user's name.
    pub name: String,
    /// The password as an argon2id PHC string.
    pub password_hash: String,
    /// The project's name.
    pub project: String,
    /// The roles in it: `admin`, `member`, `reader`.
    pub roles: Vec<String>,
}

/// Where the state is kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// `postgres://user@host:port/database`, without a password; `None` is SQLite in the state directory.
    pub url: Option<String>,
    /// A file with the password of that user.
    pub password_file: Option<PathBuf>,
}

/// How operations are done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Operations {
    /// How long a controller that says nothing keeps an operation.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Takes orders and begins none of them; other controllers on the store do, unless they are paused too.
    pub paused: bool,
}

/// What a project may have; -1 is unlimited.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Instances.
    pub max_instances_per_tenant: i64,
    /// Memory of all instances, MiB.
    pub max_ram_per_tenant: i64,
    /// Volumes of all instances, GiB.
    pub max_volumes_per_tenant: i64,
    /// Backups.
    pub max_backups_per_tenant: i64,
}

/// Requests a minute of one project at one controller; 0 is unlimited.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimits {
    /// GET.
    pub get: u32,
    /// POST, but not below `/mgmt`.
    pub post: u32,
    /// PUT.
    pub put: u32,
    /// DELETE.
    pub delete: u32,
    /// POST below `/mgmt`.
    pub mgmt_post: u32,
}

/// What is allowed of datastores.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Datastores {
    /// Those without accounts, by name, of which instances can be ordered all the same: whoever reaches the port of one is in.
    pub allow_open: Vec<String>,
    /// How connections to engines are encrypted.
    pub tls: TlsMode,
}

/// How connections to engines are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// TLS is offered; a password in clear is accepted too.
    #[default]
    Basic,
    /// Connections in clear are refused.
    Enforced,
}

/// Figures for Prometheus.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Where `/metrics` is served, in clear and without a token; unset: nowhere.
    pub listen: Option<SocketAddr>,
    /// Allows to listen on another than a loopback address.
    pub allow_remote: bool,
}

/// The process driver.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Process {
    /// Addresses of instances are drawn from this part of 127.0.0.0/8, CIDR.
    pub address_range: String,
    /// As root: the accounts that engines are given, one each. The default is used by neither useradd nor subuid on Debian.
    pub uid_range: String,
    /// As root: the account that runs an engine in a scratch directory while its manifest is made.
    pub engine_account: String,
    /// Short directory for sockets. Unset: `/run/trove-rs` for root, else under `XDG_RUNTIME_DIR` or `/tmp`.
    pub runtime_dir: Option<PathBuf>,
    /// Where hosts are kept; `None` is `hosts` in the state directory. Controllers of one machine share it.
    pub hosts_dir: Option<PathBuf>,
    /// The agent program. Unset: `trove-agent` beside the controller's own program.
    pub agent_program: Option<PathBuf>,
    /// Where hosts are not kept apart, as those of an ordinary user: allows root-enable all the same, which hands out a shell.
    pub allow_root: bool,
}

/// What is logged, to standard error.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Filter, as of `tracing`: `info`, `trove_controller=debug`.
    pub filter: String,
    /// One JSON object a line instead of text.
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
            keystone: Keystone::default(),
            quota: Quota::default(),
            rate_limits: RateLimits::default(),
            metrics: Metrics::default(),
            flavors: vec![flavor("1", 512, 1), flavor("2", 1024, 1), flavor("3", 2048, 2), flavor("4", 4096, 2)],
            process: Process::default(),
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
    /// The base of its v3 API, without a slash at its end.
    pub fn v3_url(&self) -> String {
        let url = self.auth_url.trim_end_matches('/');
        if url.ends_with("/v3") { url.to_owned() } else { format!("{url}/v3") }
    }

    /// Where users log in.
    pub fn public_url(&self) -> String {
        self.www_authenticate_uri.clone().unwrap_or_else(|| self.v3_url())
    }
}

impl Default for Operations {
    fn default() -> Self {
        Self { lease: Duration::from_secs(30), paused: false }
    }
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            max_instances_per_tenant: 10,
            max_ram_per_tenant: -1,
            max_volumes_per_tenant: 40,
            max_backups_per_tenant: 50,
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

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), json: false }
    }
}

impl Config {
    /// The base of links and of the catalog, without a slash at its end.
    pub fn public_url(&self) -> String {
        let scheme = if self.api.tls_certificate.is_some() { "https" } else { "http" };
        let url = self.api.public_url.clone().unwrap_or_else(|| format!("{scheme}://{}", self.api.listen));
        url.trim_end_matches('/').to_owned()
    }

    /// The address that agents are told.
    pub fn agents_address(&self) -> String {
        self.agents.advertise.clone().unwrap_or_else(|| self.agents.listen.to_string())
    }
}
