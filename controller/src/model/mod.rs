//! Types that all parts of the controller use: instances, flavors, datastores and what belongs to them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::ids::{DatastoreId, InstanceId, ProjectId, VersionId};
use crate::state::{self, HostState, LastSeen, Service, Task};

mod artifact;
pub mod backup_schedules;
pub mod backups;
pub mod configurations;
pub mod logs;
pub mod operations;

pub use self::artifact::{Artifact, ArtifactKind, Image, ImageFile};
use self::configurations::{AttachedConfiguration, ParameterResult, needs_restart};

/// Requested access to an instance.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Access {
    /// Whether a public address was requested.
    pub is_public: bool,
    /// CIDRs of clients; `None` if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_cidrs: Option<Vec<String>>,
}

/// A requested network interface.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Nic {
    pub network_id: Option<String>,
    pub subnet_id: Option<String>,
    /// Requested address.
    pub ip_address: Option<String>,
}

/// Whether an instance and its replicas share a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locality {
    /// They must share one.
    Affinity,
    /// They must not share one.
    AntiAffinity,
    /// They should share one.
    SoftAffinity,
    /// They should not share one.
    SoftAntiAffinity,
}

impl Locality {
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

    pub fn from_tag(tag: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|locality| locality.tag() == tag)
    }
}

/// Requirements of a create request on the host, beyond its size. The compute driver says whether they can be met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// Network interfaces, at most one.
    pub nics: Vec<Nic>,
    /// Access; `None` is the driver's default.
    pub access: Option<Access>,
    pub availability_zone: Option<String>,
    pub volume_type: Option<String>,
    /// Whether it shares a machine with its replicas.
    pub locality: Option<Locality>,
}

/// Fault of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// One sentence with the step and the reason.
    pub message: String,
    /// Details, possibly empty.
    pub details: String,
    pub created: OffsetDateTime,
}

/// A flavor.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Flavor {
    /// Any text.
    pub id: String,
    pub name: String,
    /// Memory, MiB.
    pub ram_mib: u64,
    pub vcpus: u32,
}

/// What an instance is for that is no tenant's own. Tenants do not see it, it counts against no quota, and nobody changes it but
/// the operation that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A backup is restored to it and checked; then it is deleted.
    Verification,
}

impl Purpose {
    /// The text by which it is stored.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Verification => "verification",
        }
    }

    pub fn from_tag(tag: &str) -> Option<Self> {
        [Self::Verification].into_iter().find(|purpose| purpose.tag() == tag)
    }
}

/// An instance with everything that its views show, read by one query.
#[derive(Clone, Debug)]
pub struct Instance {
    pub id: InstanceId,
    pub project: ProjectId,
    pub name: String,
    /// `None`: it is a tenant's.
    pub purpose: Option<Purpose>,
    pub flavor: Flavor,
    /// Size of its volume, GiB.
    pub volume_gib: u64,
    /// Bytes in use on the volume, once an agent has reported them.
    pub volume_used_bytes: Option<u64>,
    pub datastore_id: DatastoreId,
    pub datastore: String,
    pub version_id: VersionId,
    pub version: String,
    pub version_number: String,
    /// Region from the create request or the configuration.
    pub region: String,
    /// Address of the engine, once chosen.
    pub address: Option<IpAddr>,
    /// Port of the engine.
    pub port: u16,
    /// Who may connect.
    pub access: Option<Access>,
    /// Requested networks.
    pub nics: Vec<Nic>,
    /// Requested locality.
    pub locality: Option<Locality>,
    pub configuration: Option<AttachedConfiguration>,
    /// State of each parameter that was last set.
    pub parameter_results: BTreeMap<String, ParameterResult>,
    /// Whether a backup of it is being taken.
    pub backing_up: bool,
    /// Whether it cannot be deleted.
    pub deletion_protection: bool,
    /// What the controller is doing with it.
    pub task: Task,
    /// State of the engine as the agent last reported it.
    pub service: Service,
    /// Reason, if the engine is not healthy, or a warning of the agent.
    pub service_detail: String,
    /// When the service last changed.
    pub service_updated: OffsetDateTime,
    /// State of the host as the driver last reported it.
    pub host: HostState,
    /// When the agent was last connected.
    pub heard: LastSeen,
    pub fault: Option<Fault>,
    pub created: OffsetDateTime,
    pub updated: OffsetDateTime,
    /// When it was deleted. Only the management API shows deleted instances.
    pub deleted: Option<OffsetDateTime>,
    /// When root was enabled and by which user id, unless it was disabled since.
    pub root_enabled: Option<(OffsetDateTime, String)>,
    /// After so many seconds without an agent the instance counts as in error. Set by the use cases from the
    /// configuration.
    pub heartbeat_expiry_s: u64,
    /// When the row was read, by the store's clock.
    pub read: OffsetDateTime,
}

impl Instance {
    /// `status` and `operating_status` of the API.
    pub fn status(&self) -> (&'static str, &'static str) {
        let pending = needs_restart(&self.parameter_results);
        state::status(self.task, self.service, self.host, self.is_silent(), pending, self.backing_up)
    }

    /// The fault to show: the stored one, or else a warning of the agent, such as why the engine does not answer or
    /// that the volume is full.
    pub fn shown_fault(&self) -> Option<Fault> {
        if self.fault.is_some() || self.service_detail.is_empty() || self.host != HostState::Active || self.is_silent()
        {
            return self.fault.clone();
        }
        let (message, created) = (self.service_detail.clone(), self.service_updated);
        Some(Fault { message, details: String::new(), created })
    }

    /// Whether its agent has been disconnected for too long.
    pub fn is_silent(&self) -> bool {
        self.heard.is_silent(self.read, Duration::from_secs(self.heartbeat_expiry_s))
    }

    /// Whether its engine runs and nothing is being done with it.
    ///
    /// # Errors
    /// 422.
    pub fn check_up(&self) -> Result<()> {
        let free = matches!(self.task, Task::None | Task::RestartRequired) && !self.backing_up;
        let up = self.host == HostState::Active && self.service == Service::Healthy && !self.is_silent();
        if free && up { Ok(()) } else { Err(self.busy()) }
    }

    /// Why an action cannot be performed now, in upstream's words.
    pub fn busy(&self) -> Error {
        let id = self.id;
        let (status, operating_status) = self.status();
        let reason = match self.task {
            Task::None | Task::RestartRequired if self.backing_up => "instance status was BACKUP".to_owned(),
            Task::None if operating_status.is_empty() => format!("instance status was {status}"),
            Task::None => format!("instance status was {operating_status}"),
            task => format!("task status was {}", task.tag().to_uppercase()),
        };
        Error::Unprocessable(format!(
            "Instance {id} is not currently available for an action to be performed ({reason})."
        ))
    }
}

/// Labels of an instance's metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceLabels {
    pub id: InstanceId,
    pub project: ProjectId,
    pub datastore: String,
    /// Memory, MiB.
    pub ram_mib: u64,
    /// Volume, GiB.
    pub volume_gib: u64,
}

/// Where the engine of a version is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// On this machine, in this directory.
    Installed(PathBuf),
    /// In the image with this id.
    Image(Uuid),
}

impl Source {
    /// The id that Trove's API calls an image. That of an installed engine is derived from its directory, so it is the same
    /// on every machine.
    pub fn image_id(&self) -> Uuid {
        match self {
            Self::Installed(bindir) => {
                Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("file://{}", bindir.display()).as_bytes())
            }
            Self::Image(id) => *id,
        }
    }

    pub fn kind(&self) -> ArtifactKind {
        match self {
            Self::Installed(_) => ArtifactKind::Local,
            Self::Image(_) => ArtifactKind::Image,
        }
    }
}

/// A datastore version.
#[derive(Clone, Debug)]
pub struct Version {
    pub id: VersionId,
    pub datastore_id: DatastoreId,
    /// Such as `15`.
    pub name: String,
    /// Such as `15.18`.
    pub number: String,
    /// Whether instances of it can be created.
    pub active: bool,
    /// Where the engine is. The manifest is not here, since it is long and seldom needed.
    pub source: Source,
}

/// A datastore and its versions.
#[derive(Clone, Debug)]
pub struct Datastore {
    pub id: DatastoreId,
    pub name: String,
    /// Version of instances whose create request names none.
    pub default_version: Option<VersionId>,
    /// For an administrator all of them, otherwise the active ones.
    pub versions: Vec<Version>,
}

/// Resource that a quota limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Instances,
    /// Memory of all instances, MiB.
    Ram,
    /// Volumes of all instances, GiB.
    Volumes,
    Backups,
    /// Configuration groups; ours, Trove does not limit them.
    Configurations,
}

impl Resource {
    /// All of them, in Trove's order; ours last.
    pub const ALL: [Self; 5] = [Self::Instances, Self::Ram, Self::Volumes, Self::Backups, Self::Configurations];

    /// Trove's name of it.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Instances => "instances",
            Self::Ram => "ram",
            Self::Volumes => "volumes",
            Self::Backups => "backups",
            Self::Configurations => "configurations",
        }
    }

    pub fn from_tag(tag: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| resource.tag() == tag)
    }
}

/// Limit and use of a resource by a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub resource: Resource,
    pub in_use: i64,
    /// -1 is unlimited.
    pub limit: i64,
}

/// Certificate and key of an engine.
pub struct EngineCertificate {
    /// PEM.
    pub certificate_pem: String,
    /// PEM, PKCS#8.
    pub key_pem: SecretString,
    /// Certificate of the engines' authority, PEM.
    pub authority_pem: String,
    /// When it expires. A reconciler renews it before.
    pub not_after: OffsetDateTime,
}
