//! Instances: what a tenant orders, sees, renames, restarts and deletes.
//!
//! SKELETON of the interface between `api` and `app`; bodies follow.

use std::net::IpAddr;
use std::time::Duration;

use secrecy::SecretString;
use time::OffsetDateTime;

use super::{App, Page, PageRequest};
use crate::error::Result;
use crate::identity::Caller;
use crate::ids::{DatastoreId, InstanceId, OperationId, ProjectId, VersionId};
use crate::state::{self, Heard, HostState, Service, Task};

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
    /// What the controller does with it.
    pub task: Task,
    /// What the agent last said.
    pub service: Service,
    /// When that last changed.
    pub service_updated: OffsetDateTime,
    /// What the compute driver last said.
    pub host: HostState,
    /// When the agent was last heard.
    pub heard: Heard,
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
}

impl Instance {
    /// `status` and `operating_status` of the API at this time.
    pub fn status(&self, now: OffsetDateTime) -> (&'static str, &'static str) {
        let silent = self.heard.is_silent(now, Duration::from_secs(self.heartbeat_expiry_s));
        state::status(self.task, self.service, self.host, silent)
    }
}

/// An order, checked for its form by the API; the rest is checked here.
#[derive(Clone, Debug)]
pub struct NewInstance {
    /// The name.
    pub name: String,
    /// The flavor's id.
    pub flavor: String,
    /// Size of the volume, GiB.
    pub volume_gib: Option<u64>,
    /// Name or id of a datastore.
    pub datastore: Option<String>,
    /// Name or id of a version.
    pub version: Option<String>,
    /// Number of a version, where several have one name.
    pub version_number: Option<String>,
    /// First databases.
    pub databases: Vec<super::accounts::NewDatabase>,
    /// First accounts.
    pub users: Vec<super::accounts::NewUser>,
    /// Networks.
    pub nics: Vec<Nic>,
    /// Who may connect.
    pub access: Option<Access>,
    /// Zone.
    pub availability_zone: Option<String>,
    /// Region.
    pub region: Option<String>,
}

/// What an accepted change answers with.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The operation that carries it out, for the header `x-trove-operation-id`.
    pub operation: OperationId,
}

impl App {
    /// Orders an instance. The second of the pair is the password of root when the configuration enables it at once.
    ///
    /// # Errors
    /// 400, 404, 413, 501 as reference: flavor, volume, datastore, names, quota.
    pub async fn create_instance(
        &self,
        caller: &Caller,
        request_id: &str,
        order: NewInstance,
    ) -> Result<(Instance, Option<SecretString>, Accepted)> {
        let _ = (caller, request_id, order);
        todo!()
    }

    /// The caller's project's instances; by id ascending in pages, inside a page by creation descending.
    ///
    /// # Errors
    /// Internal only.
    pub async fn list_instances(&self, project: &ProjectId, page: PageRequest) -> Result<Page<Instance>> {
        let _ = (project, page);
        todo!()
    }

    /// One of the caller's project's instances (any for an admin); deleted ones are not found.
    ///
    /// # Errors
    /// 404.
    pub async fn get_instance(&self, caller: &Caller, id: InstanceId) -> Result<Instance> {
        let _ = (caller, id);
        todo!()
    }

    /// Renames it.
    ///
    /// # Errors
    /// 404.
    pub async fn rename_instance(&self, caller: &Caller, id: InstanceId, name: &str) -> Result<()> {
        let _ = (caller, id, name);
        todo!()
    }

    /// Restarts the engine.
    ///
    /// # Errors
    /// 404; 422 when busy.
    pub async fn restart_instance(&self, caller: &Caller, request_id: &str, id: InstanceId) -> Result<Accepted> {
        let _ = (caller, request_id, id);
        todo!()
    }

    /// Clears the task, ends its operation, and makes the service unknown until the agent says otherwise.
    ///
    /// # Errors
    /// 404.
    pub async fn reset_status(&self, caller: &Caller, id: InstanceId) -> Result<()> {
        let _ = (caller, id);
        todo!()
    }

    /// Deletes it with everything it has. `Ok` also when it is being deleted already.
    ///
    /// # Errors
    /// 404; 422 while it is being built.
    pub async fn delete_instance(&self, caller: &Caller, request_id: &str, id: InstanceId) -> Result<Accepted> {
        let _ = (caller, request_id, id);
        todo!()
    }

    /// Management list, by last change descending; the marker is an offset.
    ///
    /// # Errors
    /// Internal only.
    pub async fn list_all_instances(
        &self,
        project: Option<&ProjectId>,
        deleted: Option<bool>,
        offset: u64,
        limit: u32,
    ) -> Result<Vec<Instance>> {
        let _ = (project, deleted, offset, limit);
        todo!()
    }

    /// Management show: also a deleted one when `deleted` is set.
    ///
    /// # Errors
    /// 404.
    pub async fn get_any_instance(&self, id: InstanceId, deleted: bool) -> Result<Instance> {
        let _ = (id, deleted);
        todo!()
    }
}
