//! Instances: what a tenant orders, sees, renames, restarts and deletes.

use std::sync::Arc;

use trove_strategy::Manifest;

use super::recovery::Moment;
pub use super::submit::Accepted;
use super::submit::origin;
use super::visibility::{may_see, not_found};
use super::{App, Page, PageRequest, names};
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::{InstanceId, ProjectId};
pub use crate::model::{Access, Fault, Flavor, Instance, Locality, Nic, Purpose, Requirements};
use crate::operations::{Lane, delete_instance, restart_instance};
use crate::state::{HostState, Service, Task};
use crate::store::instances::Filter;
pub use crate::store::instances::{Deleted, Edit};

/// Per cent of a volume above which its agent stops the engine.
const OVER: u64 = 110;

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
    /// Id of a configuration group.
    pub configuration: Option<String>,
    /// Id of the backup that it is made from.
    pub backup: Option<String>,
    /// The moment of another instance that it is made from.
    pub moment: Option<Moment>,
    /// First databases.
    pub databases: Vec<super::accounts::NewDatabase>,
    /// First accounts.
    pub users: Vec<super::accounts::NewUser>,
    /// What is ordered of the host.
    pub requirements: Requirements,
    /// Region.
    pub region: Option<String>,
    /// Whether it cannot be deleted.
    pub deletion_protection: bool,
    /// Whether who orders may have root: only then the configuration enables it at once.
    pub may_have_root: bool,
}

impl App {
    /// The caller's project's instances, the newest first.
    pub async fn list_instances(&self, project: &ProjectId, page: PageRequest) -> Result<Page<Instance>> {
        // One more than asked for tells whether there is a next page.
        let found = self.store.list_instances(project, page.marker.as_deref(), page.limit.saturating_add(1)).await?;
        let found = found.into_iter().map(|instance| self.with_expiry(instance)).collect();
        // In the order of the pages: some clients take the last item that they see for the marker.
        Ok(Page::cut(found, page.limit, |instance: &Instance| instance.id.to_string()))
    }

    /// One of the caller's project's instances (any for an admin); deleted ones are not found.
    ///
    /// # Errors
    /// 404.
    pub async fn get_instance(&self, caller: &Caller, id: InstanceId) -> Result<Instance> {
        let found = self.store.get_instance(id).await?;
        let found = found.filter(|instance| instance.deleted.is_none() && may_see(caller, instance));
        Ok(self.with_expiry(found.ok_or_else(|| not_found(id))?))
    }

    /// One of the caller's project's instances with the manifest of its version.
    ///
    /// # Errors
    /// 404.
    pub async fn get_instance_with_manifest(
        &self,
        caller: &Caller,
        id: InstanceId,
    ) -> Result<(Instance, Arc<Manifest>)> {
        let found = self.store.get_instance_with_manifest(id).await?;
        let found = found.filter(|(instance, _)| may_see(caller, instance) && instance.deleted.is_none());
        let (instance, manifest) = found.ok_or_else(|| not_found(id))?;
        Ok((self.with_expiry(instance), manifest))
    }

    /// Changes what can be changed at any time: its name, and whether it cannot be deleted.
    ///
    /// # Errors
    /// 400 name; 404; 422 when it is to be protected and is being deleted.
    pub async fn edit_instance(&self, caller: &Caller, id: InstanceId, edit: Edit<'_>) -> Result<()> {
        if let Some(name) = edit.name {
            names::check_text("name", name)?;
        }
        let project = (!caller.is_admin()).then_some(&caller.project);
        if !self.store.edit_instance(id, project, &edit).await? {
            return Err(self.get_instance(caller, id).await?.busy());
        }
        self.changes.bump();
        Ok(())
    }

    /// Restarts the engine.
    ///
    /// # Errors
    /// 404; 422 when busy, or when the volume is so full that an engine is not started.
    pub async fn restart_instance(&self, caller: &Caller, request_id: &str, id: InstanceId) -> Result<Accepted> {
        let instance = self.get_instance(caller, id).await?;
        instance.check_free()?;
        instance.check_volume()?;
        let operation = restart_instance::new(origin(caller, request_id, id, instance.project));
        let mut tx = self.store.begin().await?;
        let free = [Task::None, Task::RestartRequired];
        if !self.store.begin_task(&mut tx, id, &free, Task::Restarting).await? {
            drop(tx);
            // Another order came first: its task is the reason, and nothing has been changed.
            return Err(self.get_instance(caller, id).await?.busy());
        }
        self.submit(tx, operation).await
    }

    /// Clears the task and the fault, ends what is under way, and makes the service unknown until the agent says
    /// otherwise. Works without a host.
    ///
    /// # Errors
    /// 404.
    pub async fn reset_status(&self, caller: &Caller, id: InstanceId) -> Result<()> {
        self.get_instance(caller, id).await?;
        // What the host is now is the driver's word: the operation that would have recorded it has ended.
        let host = self.compute.describe(id).await;
        let mut tx = self.store.begin().await?;
        self.store.cancel_active(&mut tx, id, &[Lane::Lifecycle, Lane::Accounts, Lane::Backup]).await?;
        self.store
            .fail_backups_of(&mut tx, id, "The status of the instance was reset while the backup was taken.")
            .await?;
        self.store.set_task(&mut tx, id, Task::None).await?;
        self.store.set_fault(&mut tx, id, None).await?;
        self.store.reset_service(&mut tx, id, Service::Unknown).await?;
        match host {
            Ok(host) => self.store.set_host(&mut tx, id, host).await?,
            Err(error) => tracing::warn!(instance_id = %id, "the host's state stays as it was: {error}"),
        }
        self.commit(tx, "reset_status").await
    }

    /// Deletes it with everything it has. `Ok` also when it is being deleted already, with that operation.
    ///
    /// # Errors
    /// 404; 409 when it is protected; 422 while it is being built or changed.
    pub async fn delete_instance(&self, caller: &Caller, request_id: &str, id: InstanceId) -> Result<Accepted> {
        let instance = self.get_instance(caller, id).await?;
        let operation = delete_instance::new(origin(caller, request_id, id, instance.project));
        let mut tx = self.store.begin().await?;
        if self.store.is_protected(&mut tx, id).await? {
            return Err(Error::Conflict(format!(
                "Instance {id} is protected from deletion. Set its deletion_protection to false first."
            )));
        }
        let deletable = [Task::None, Task::RestartRequired, Task::BuildingError, Task::Error];
        if self.store.begin_task(&mut tx, id, &deletable, Task::Deleting).await? {
            // What is queued has no object any more. What failed, and may still be undone or be stuck, is ended too.
            let failed = matches!(instance.task, Task::BuildingError | Task::Error);
            let lanes: &[Lane] = if failed { &[Lane::Lifecycle] } else { &[] };
            self.store.cancel_active(&mut tx, id, &[lanes, &[Lane::Accounts, Lane::Backup]].concat()).await?;
            self.store.fail_backups_of(&mut tx, id, "The instance was deleted while the backup was taken.").await?;
            return self.submit(tx, operation).await;
        }
        drop(tx);
        let instance = self.get_instance(caller, id).await?;
        let running = self.store.active_lifecycle(id).await?;
        match running {
            Some(operation) if instance.task == Task::Deleting => Ok(Accepted { operation }),
            _ => Err(instance.busy()),
        }
    }

    /// Management list, by last change descending; the marker is an offset.
    pub async fn list_all_instances(
        &self,
        project: Option<&ProjectId>,
        deleted: Deleted,
        offset: u64,
        limit: u32,
    ) -> Result<Vec<Instance>> {
        let found = self.store.list_all_instances(Filter { project, deleted }, offset, limit).await?;
        Ok(found.into_iter().map(|instance| self.with_expiry(instance)).collect())
    }

    /// Management show: also a deleted one when `deleted` is set.
    ///
    /// # Errors
    /// 404.
    pub async fn get_any_instance(&self, id: InstanceId, deleted: bool) -> Result<Instance> {
        let found = self.store.get_instance(id).await?.filter(|instance| deleted || instance.deleted.is_none());
        found.map(|instance| self.with_expiry(instance)).ok_or_else(|| not_found(id))
    }

    /// The store does not know the configuration.
    pub(super) fn with_expiry(&self, mut instance: Instance) -> Instance {
        instance.heartbeat_expiry_s = self.config.agents.heartbeat_expiry.as_secs();
        instance
    }
}

impl Instance {
    /// The rule of every life-cycle action: a host that runs, no task, no backup, and a service that is not being made or lost.
    ///
    /// # Errors
    /// 422.
    pub(super) fn check_free(&self) -> Result<()> {
        let service = matches!(
            self.service,
            Service::Starting | Service::Healthy | Service::Blocked | Service::Shutdown | Service::Crashed
        );
        let task = matches!(self.task, Task::None | Task::RestartRequired) && !self.backing_up;
        if service && task && self.host == HostState::Active { Ok(()) } else { Err(self.busy()) }
    }

    /// Refuses to start the engine where its agent would: with more than [`OVER`] per cent of the volume in use.
    ///
    /// # Errors
    /// 422: says how much is in use.
    pub(super) fn check_volume(&self) -> Result<()> {
        let (used, size) = (self.volume_used_bytes.unwrap_or_default(), self.volume_gib << 30);
        if size == 0 || u128::from(used) * 100 <= u128::from(size) * u128::from(OVER) {
            return Ok(());
        }
        Err(Error::Unprocessable(format!(
            "Instance {} cannot be restarted: {} MiB of its volume of {} GiB are in use, and with more than {OVER} % the \
             engine is stopped. Resize the volume first.",
            self.id,
            used >> 20,
            self.volume_gib
        )))
    }
}

#[cfg(test)]
mod tests;
