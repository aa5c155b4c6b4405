//! The words that every room uses: an instance, a size, a datastore, and what belongs to them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use time::OffsetDateTime;

use crate::ids::{DatastoreId, InstanceId, ProjectId, VersionId};
use crate::state::{self, HostState, LastSeen, Service, Task};

mod artifact;
pub mod configurations;
pub mod operations;

pub use self::artifact::Artifact;
use self::configurations::{AttachedConfiguration, ParameterResult, needs_restart};

/// Who may connect, as it was ordered.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Access {
    /// Whether a public address was asked for.
    pub is_public: bool,
    /// From where, CIDRs; `None` where nothing was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_cidrs: Option<Vec<String>>,
}

/// A network interface, as it was ordered.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Nic {
    /// The network's id.
    pub network_id: Option<String>,
    /// The subnet's id.
    pub subnet_id: Option<String>,
    /// The address that was asked for.
    pub ip_address: Option<String>,
}

/// Whether an instance and those that copy it are to share a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locality {
    /// They must.
    Affinity,
    /// They must not.
    AntiAffinity,
    /// They do where that is possible.
    SoftAffinity,
    /// They do not where that is possible.
    SoftAntiAffinity,
}

impl Locality {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Affinity, Self::AntiAffinity, Self::SoftAffinity, Self::SoftAntiAffinity];

    /// Trove's name of it.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Affinity => "affinity",
            Self::AntiAffinity => "anti-affinity",
            Self::SoftAffinity => "soft-affinity",
            Self::SoftAntiAffinity => "soft-anti-affinity",
        }
    }

    /// The one of this name.
    pub fn from_tag(tag: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|locality| locality.tag() == tag)
    }
}

/// What an order requires of the host beyond its size. The driver says whether it can be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// The network interface, at most one.
    pub nics: Vec<Nic>,
    /// Who may connect; `None`: as the driver does without a word.
    pub access: Option<Access>,
    /// The zone.
    pub availability_zone: Option<String>,
    /// The type of the volume.
    pub volume_type: Option<String>,
    /// Whether it shares a machine with its replicas.
    pub locality: Option<Locality>,
}

/// Why an instance is in error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// One sentence that names the step and the reason.
    pub message: String,
    /// More of it, possibly empty.
    pub details: String,
    /// When.
    pub created: OffsetDateTime,
}

/// A size that can be ordered.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Flavor {
    /// Its id, a text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Memory, MiB.
    pub ram_mib: u64,
    /// Cores.
    pub vcpus: u32,
}

/// An instance with everything that its views show; read by one query.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Whose it is.
    pub project: ProjectId,
    /// Not unique.
    pub name: String,
    /// The size that was ordered.
    pub flavor: Flavor,
    /// Size of its volume, GiB.
    pub volume_gib: u64,
    /// Bytes in use on it, once an agent said so.
    pub volume_used_bytes: Option<u64>,
    /// Its datastore.
    pub datastore_id: DatastoreId,
    /// The datastore's name.
    pub datastore: String,
    /// The version's id.
    pub version_id: VersionId,
    /// The version's name.
    pub version: String,
    /// The version's number.
    pub version_number: String,
    /// Region, as it was ordered or as configured.
    pub region: String,
    /// Where the engine listens, once that is known.
    pub address: Option<IpAddr>,
    /// The port it listens on.
    pub port: u16,
    /// Who may connect.
    pub access: Option<Access>,
    /// The networks that were asked for.
    pub nics: Vec<Nic>,
    /// Whether it shares a machine with its replicas, as it was ordered.
    pub locality: Option<Locality>,
    /// Its configuration group.
    pub configuration: Option<AttachedConfiguration>,
    /// What became of the values of parameters that it was last given.
    pub parameter_results: BTreeMap<String, ParameterResult>,
    /// What the controller does with it.
    pub task: Task,
    /// What the agent last said.
    pub service: Service,
    /// Why, for one that is not well, or what is amiss.
    pub service_detail: String,
    /// When that last changed.
    pub service_updated: OffsetDateTime,
    /// What the compute driver last said.
    pub host: HostState,
    /// When the agent was last heard.
    pub heard: LastSeen,
    /// Why it is in error.
    pub fault: Option<Fault>,
    /// When it was ordered.
    pub created: OffsetDateTime,
    /// When it last changed.
    pub updated: OffsetDateTime,
    /// When it was deleted; only the management view shows such.
    pub deleted: Option<OffsetDateTime>,
    /// When root was enabled and by which user id, if it ever was and was not disabled since.
    pub root_enabled: Option<(OffsetDateTime, String)>,
    /// The agents' expiry after which a silent agent counts as an error, seconds; the use cases fill it in from the
    /// configuration.
    pub heartbeat_expiry_s: u64,
    /// When it was read, by the store's clock.
    pub read: OffsetDateTime,
}

impl Instance {
    /// `status` and `operating_status` of the API.
    pub fn status(&self) -> (&'static str, &'static str) {
        let pending = needs_restart(&self.parameter_results);
        state::status(self.task, self.service, self.host, self.is_silent(), pending)
    }

    /// Why it is in error; else what its agent says is amiss: why the engine does not answer, or that the volume is full.
    pub fn shown_fault(&self) -> Option<Fault> {
        if self.fault.is_some() || self.service_detail.is_empty() || self.host != HostState::Active || self.is_silent()
        {
            return self.fault.clone();
        }
        let (message, created) = (self.service_detail.clone(), self.service_updated);
        Some(Fault { message, details: String::new(), created })
    }

    /// Whether its agent has not been heard for too long.
    pub fn is_silent(&self) -> bool {
        self.heard.is_silent(self.read, Duration::from_secs(self.heartbeat_expiry_s))
    }
}

/// What tells the figures of an instance from those of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceLabels {
    /// Its id.
    pub id: InstanceId,
    /// Whose it is.
    pub project: ProjectId,
    /// The datastore's name.
    pub datastore: String,
    /// Memory, MiB.
    pub ram_mib: u64,
    /// Volume, GiB.
    pub volume_gib: u64,
}

/// A version of a datastore.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its id.
    pub id: VersionId,
    /// Its datastore.
    pub datastore_id: DatastoreId,
    /// Its name, such as `15`.
    pub name: String,
    /// Its number, such as `15.18`.
    pub number: String,
    /// Whether instances of it can be ordered.
    pub active: bool,
    /// Where the engine's server programs are. What it can do is in its manifest, which is long and read where it is needed.
    pub bindir: PathBuf,
}

/// A datastore with its versions.
#[derive(Clone, Debug)]
pub struct Datastore {
    /// Its id.
    pub id: DatastoreId,
    /// Its name.
    pub name: String,
    /// The version that is meant when none is named.
    pub default_version: Option<VersionId>,
    /// All of them for an admin, the active ones otherwise.
    pub versions: Vec<Version>,
}

/// What a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Instances.
    Instances,
    /// Memory of all instances, MiB.
    Ram,
    /// Volumes of all instances, GiB.
    Volumes,
    /// Backups.
    Backups,
}

impl Resource {
    /// All of them, in the order in which Trove names them.
    pub const ALL: [Self; 4] = [Self::Instances, Self::Ram, Self::Volumes, Self::Backups];

    /// Trove's name of it.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Instances => "instances",
            Self::Ram => "ram",
            Self::Volumes => "volumes",
            Self::Backups => "backups",
        }
    }

    /// The one of this name.
    pub fn from_tag(tag: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| resource.tag() == tag)
    }
}

/// What a project may have of a resource, and has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Of which.
    pub resource: Resource,
    /// What it has.
    pub in_use: i64,
    /// What it may have; -1 is unlimited.
    pub limit: i64,
}

/// A certificate for an engine, with its key.
pub struct EngineCertificate {
    /// PEM.
    pub certificate_pem: String,
    /// PEM, PKCS#8.
    pub key_pem: SecretString,
    /// PEM of the engines' authority.
    pub authority_pem: String,
    /// When it expires; a reconciler replaces it before.
    pub not_after: OffsetDateTime,
}
