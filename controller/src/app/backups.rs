//! Backups: what a tenant orders, sees and deletes. One is taken by an operation; what is deleted a reconciler removes.

use std::time::Duration;

use trove_strategy::Capability;

use super::names::{self, shown};
use super::submit::{Accepted, origin};
use super::visibility::not_found;
use super::{App, configurations};
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::{BackupId, InstanceId, ProjectId};
use crate::model::Instance;
use crate::model::backups::BackupSource;
pub use crate::model::backups::{Backup, BackupState, BackupStrategy};
use crate::objects::Objects;
use crate::operations::{Lane, create_backup};
use crate::state::{HostState, Service, Task};
use crate::store::backups::{Filter, NewRow};
use crate::store::quota::Amounts;

/// A running backup that is older than this can be deleted.
const OLD: Duration = Duration::from_secs(3 * 24 * 3600);

/// A backup to be taken, checked for its form by the API; the rest is checked here.
#[derive(Clone, Debug)]
pub struct NewBackup {
    pub name: String,
    pub description: Option<String>,
    /// Id of the source.
    pub instance: String,
    /// Whether it is to build on another one.
    pub incremental: bool,
}

/// Which backups a list shows.
#[derive(Clone, Debug, Default)]
pub struct ListedBackups {
    /// Of all projects, or of this one; else of the caller's.
    pub all_projects: bool,
    pub project: Option<ProjectId>,
    /// Only those of the instance with this id.
    pub instance: Option<String>,
    /// Only those of the datastore with this name or id.
    pub datastore: Option<String>,
}

impl App {
    /// Orders a backup of an instance whose engine runs.
    ///
    /// # Errors
    /// 400 names; 404; 413 quota; 422 when busy or not up, or incremental; 501 where the datastore has no backups.
    pub async fn create_backup(
        &self,
        caller: &Caller,
        request_id: &str,
        order: NewBackup,
    ) -> Result<(Backup, Accepted)> {
        names::check_text("name", &order.name)?;
        configurations::check_description(order.description.as_deref())?;
        let missing = || Error::NotFound(format!("Instance {} cannot be found.", shown(&order.instance)));
        let id: InstanceId = order.instance.parse().map_err(|_| missing())?;
        let (instance, manifest) = self.get_instance_with_manifest(caller, id).await?;
        if !manifest.has(Capability::Backup) {
            return Err(Error::NotImplemented(format!("Datastore {} does not support backups.", instance.datastore)));
        }
        if order.incremental {
            return Err(Error::Unprocessable(format!(
                "Datastore {} has no incremental backups: leave out parent_id and incremental.",
                instance.datastore
            )));
        }
        instance.check_up()?;
        let key = Objects::new_key();
        let project = instance.project.clone();
        let backup = BackupId::random();
        let recipients = Objects::recipients(&self.config, &key.recipient);
        let segment_bytes = self.config.backups.segment_mib << 20;
        let params = create_backup::Params { backup, recipients, segment_bytes };
        let origin = origin(caller, request_id, id, project.clone());
        let operation = create_backup::new(origin, params)?;
        let kind = operation.kind;
        let mut tx = self.store.begin().await?;
        self.store.take_quota(&mut tx, &project, Amounts::backup(), |resource| self.default_limit(resource)).await?;
        match self.store.task(&mut tx, id).await? {
            Some(Task::None | Task::RestartRequired) => {}
            Some(_) => {
                drop(tx);
                return Err(self.get_instance(caller, id).await?.busy());
            }
            None => return Err(not_found(id)),
        }
        let operation = self.store.enqueue(&mut tx, operation).await?;
        let row = NewRow {
            id: backup,
            project,
            name: order.name,
            description: order.description,
            instance: id,
            source: source(&instance, &manifest.installation.major),
            operation,
            recipient: key.recipient,
            identity: self.store.seal.seal(Backup::SEALED, &key.identity)?,
        };
        let created = self.store.insert_backup(&mut tx, &row).await?;
        self.commit(tx, kind).await?;
        let backup = Backup {
            id: row.id,
            project: row.project,
            name: row.name,
            description: row.description,
            instance: row.instance,
            source: row.source,
            state: BackupState::New,
            operation: row.operation,
            recipient: row.recipient,
            identity: row.identity,
            stored: None,
            fault: None,
            created,
            updated: created,
        };
        Ok((backup, Accepted { operation }))
    }

    /// At most `limit` backups after the first `offset`, by last change descending. Other projects' are for administrators, which
    /// the caller of this has checked.
    pub async fn list_backups(
        &self,
        caller: &Caller,
        wanted: &ListedBackups,
        offset: u64,
        limit: u32,
    ) -> Result<Vec<Backup>> {
        let project = match &wanted.project {
            Some(project) => Some(project),
            None => (!wanted.all_projects).then_some(&caller.project),
        };
        let (instance, datastore) = (wanted.instance.as_deref(), wanted.datastore.as_deref());
        self.store.list_backups(Filter { project, instance, datastore }, offset, limit).await
    }

    /// The backups of an instance that the caller may see, as [`App::list_backups`].
    ///
    /// # Errors
    /// 404.
    pub async fn list_instance_backups(
        &self,
        caller: &Caller,
        id: InstanceId,
        offset: u64,
        limit: u32,
    ) -> Result<Vec<Backup>> {
        let instance = self.get_instance(caller, id).await?;
        let id = instance.id.to_string();
        let filter = Filter { project: Some(&instance.project), instance: Some(&id), datastore: None };
        self.store.list_backups(filter, offset, limit).await
    }

    /// One of the caller's project's backups (any, for an admin).
    ///
    /// # Errors
    /// 404.
    pub async fn get_backup(&self, caller: &Caller, id: BackupId) -> Result<Backup> {
        let found = self.store.get_backup(id).await?;
        found.filter(|found| is_visible(caller, found)).ok_or_else(|| no_backup(id))
    }

    /// Deletes a backup. It is gone once its objects are removed. `Ok` also when it is being deleted already.
    ///
    /// # Errors
    /// 404; 422 while it is being taken, for three days, or while an instance is made of it.
    pub async fn delete_backup(&self, caller: &Caller, id: BackupId) -> Result<()> {
        let mut tx = self.store.begin().await?;
        let found = self.store.backup(&mut tx, id).await?;
        let backup = found.filter(|found| is_visible(caller, found)).ok_or_else(|| no_backup(id))?;
        if backup.state.is_running() {
            if self.store.now() - backup.created < OLD {
                return Err(Error::Unprocessable(format!("Backup {id} is being taken ({}).", backup.state.tag())));
            }
            self.store.cancel_active(&mut tx, backup.instance, &[Lane::Backup]).await?;
            self.store.fail_backups_of(&mut tx, backup.instance, "The backup was deleted while it was taken.").await?;
        }
        if self.store.is_backup_restored(&mut tx, id).await? {
            return Err(Error::Unprocessable(format!("Backup {id} is being restored.")));
        }
        if backup.state != BackupState::Deleting {
            self.store.begin_backup_deletion(&mut tx, id).await?;
        }
        self.commit(tx, "delete_backup").await
    }

    /// A project's strategies: the caller's, or any for administrators, which the caller of this has checked.
    pub async fn list_backup_strategies(
        &self,
        project: &ProjectId,
        instance: Option<&str>,
    ) -> Result<Vec<BackupStrategy>> {
        self.store.list_backup_strategies(project, instance).await
    }

    /// Writes a strategy of the caller's project, in the place of the one that was there.
    ///
    /// # Errors
    /// 400 container; 404 instance.
    pub async fn put_backup_strategy(
        &self,
        caller: &Caller,
        instance: Option<&str>,
        swift_container: String,
    ) -> Result<BackupStrategy> {
        names::check_text("swift_container", &swift_container)?;
        let missing = |text: &str| Error::NotFound(format!("Instance {} cannot be found.", shown(text)));
        let instance = match instance {
            None => None,
            Some(text) => Some(self.get_instance(caller, text.parse().map_err(|_| missing(text))?).await?),
        };
        if let Some(other) = instance.as_ref().filter(|instance| instance.project != caller.project) {
            return Err(missing(&other.id.to_string()));
        }
        let project = caller.project.clone();
        let strategy = BackupStrategy { project, instance: instance.map(|instance| instance.id), swift_container };
        let mut tx = self.store.begin().await?;
        self.store.put_backup_strategy(&mut tx, &strategy).await?;
        tx.commit().await.map_err(|error| Error::internal("commit a backup strategy", error))?;
        Ok(strategy)
    }

    /// Removes a strategy, by its instance; empty: the one of all others. What is not there counts as removed.
    pub async fn delete_backup_strategy(&self, project: &ProjectId, instance: &str) -> Result<()> {
        self.store.delete_backup_strategy(project, instance).await
    }
}

impl Instance {
    /// Whether its engine runs and nothing is being done with it.
    ///
    /// # Errors
    /// 422.
    fn check_up(&self) -> Result<()> {
        let free = matches!(self.task, Task::None | Task::RestartRequired) && !self.backing_up;
        let up = self.host == HostState::Active && self.service == Service::Healthy && !self.is_silent();
        if free && up { Ok(()) } else { Err(self.busy()) }
    }
}

fn source(instance: &Instance, major: &str) -> BackupSource {
    BackupSource {
        datastore_id: instance.datastore_id,
        datastore: instance.datastore.clone(),
        version_id: instance.version_id,
        version: instance.version.clone(),
        version_number: instance.version_number.clone(),
        major: major.to_owned(),
        volume_gib: instance.volume_gib,
        root_by: instance.root_enabled.as_ref().map(|(_, by)| by.clone()),
    }
}

/// Whether a backup is there for the caller.
fn is_visible(caller: &Caller, backup: &Backup) -> bool {
    caller.is_admin() || caller.project == backup.project
}

pub(super) fn no_backup(id: BackupId) -> Error {
    Error::NotFound(format!("Backup {id} cannot be found."))
}

#[cfg(test)]
mod tests;
