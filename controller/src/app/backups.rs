//! Backups: what a tenant orders, sees and deletes. One is taken by an operation; what is deleted a reconciler removes.

use std::time::Duration;

use trove_strategy::Capability;

use super::names::{self, shown};
use super::submit::{Accepted, origin};
use super::{App, configurations};
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::{BackupId, InstanceId, ProjectId};
use crate::model::Instance;
pub use crate::model::backups::{Backup, BackupState, BackupStrategy, Verification};
use crate::operations::steps::Operation as _;
use crate::operations::verify_backup::VerifyBackup;
use crate::operations::{Lane, create_backup};
use crate::store::backups::{Filter, LONGEST_CHAIN};
use crate::store::sql::Connection;

/// A running backup that is older than this can be deleted.
const OLD: Duration = Duration::from_secs(3 * 24 * 3600);

/// A backup to be taken, checked for its form by the API; the rest is checked here.
#[derive(Clone, Debug)]
pub struct NewBackup {
    pub name: String,
    pub description: Option<String>,
    /// Id of the source.
    pub instance: String,
    /// Id of the backup that it is to build on, or its name: the newest complete one of the instance that has it.
    pub parent: Option<String>,
    /// Whether it is to build on the last one of the instance, where there is one.
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
    /// 400 names, parent; 404; 409 an incomplete parent; 413 quota; 422 when busy or not up, or where the datastore has no
    /// increments; 501 where it has no backups.
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
        create_backup::check_able(&instance, &manifest)?;
        if (order.incremental || order.parent.is_some()) && !manifest.has(Capability::Incremental) {
            return Err(Error::Unprocessable(format!(
                "Datastore {} has no incremental backups: leave out parent_id and incremental.",
                instance.datastore
            )));
        }
        instance.check_up()?;
        let mut tx = self.store.begin().await?;
        // From then on it is not deleted without this one.
        let parent = self.parent(&mut tx, caller, &order, &instance).await?;
        let order = create_backup::Order {
            origin: origin(caller, request_id, id, instance.project.clone()),
            name: order.name,
            description: order.description,
            parent,
            schedule: None,
        };
        let backup = create_backup::submit(&self.store, &self.config, &mut tx, (&instance, &manifest), order).await?;
        self.commit(tx, create_backup::CreateBackup::KIND).await?;
        let accepted = Accepted { operation: backup.operation };
        Ok((backup, accepted))
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
        found.filter(|found| is_of(caller, &found.project)).ok_or_else(|| no_backup(id))
    }

    /// What the new backup of the instance builds on.
    ///
    /// # Errors
    /// 400 a parent of another instance or version, or on which nothing builds; 404; 409; 422 too long a chain.
    async fn parent(
        &self,
        conn: &mut Connection,
        caller: &Caller,
        order: &NewBackup,
        instance: &Instance,
    ) -> Result<Option<BackupId>> {
        let parent = match &order.parent {
            None if !order.incremental => return Ok(None),
            None => self.store.last_backup(conn, instance.id, &instance.version_number).await?,
            Some(wanted) => {
                let missing = || Error::NotFound(format!("Backup {} cannot be found.", shown(wanted)));
                // Trove's client passes on a name as it was given.
                let id = match wanted.parse() {
                    Ok(id) => Some(id),
                    Err(_) => self.store.backup_named(conn, instance.id, wanted).await?,
                };
                let found = self.store.backup(conn, id.ok_or_else(missing)?).await?;
                let parent = found.filter(|found| is_of(caller, &found.project)).ok_or_else(missing)?;
                check_parent(&parent, instance)?;
                Some(parent)
            }
        };
        // As in Trove: the first one is a full one.
        let Some(parent) = parent else { return Ok(None) };
        if self.store.backup_chain(&mut *conn, parent.id).await?.len() >= LONGEST_CHAIN {
            return Err(Error::Unprocessable(format!(
                "Backup {} is the last of {LONGEST_CHAIN} that build on one another: take a full backup.",
                parent.id
            )));
        }
        Ok(Some(parent.id))
    }

    /// Deletes a backup, and as in Trove all that build on it, whose ids are returned. It is gone once its objects are removed. `Ok`
    /// also when it is being deleted already.
    ///
    /// # Errors
    /// 404; 422 while one of them is being taken, for three days, or while an instance is made of it or it is verified.
    pub async fn delete_backup(&self, caller: &Caller, id: BackupId) -> Result<Vec<BackupId>> {
        let mut tx = self.store.begin().await?;
        let found = self.store.backup(&mut tx, id).await?;
        let backup = found.filter(|found| is_of(caller, &found.project)).ok_or_else(|| no_backup(id))?;
        let increments = self.store.increments_on(&mut tx, id).await?;
        for backup in increments.iter().chain([&backup]) {
            self.begin_deletion(&mut tx, backup).await?;
        }
        self.commit(tx, "delete_backup").await?;
        Ok(increments.into_iter().map(|increment| increment.id).collect())
    }

    async fn begin_deletion(&self, conn: &mut Connection, backup: &Backup) -> Result<()> {
        let id = backup.id;
        if backup.state.is_running() {
            if self.store.now() - backup.created < OLD {
                return Err(Error::Unprocessable(format!("Backup {id} is being taken ({}).", backup.state.tag())));
            }
            self.store.cancel_active(conn, backup.instance, &[Lane::Backup]).await?;
            self.store.fail_backups_of(conn, backup.instance, "The backup was deleted while it was taken.").await?;
        }
        if let Some(reader) = self.store.backup_reader(conn, id).await? {
            let what = if reader == VerifyBackup::KIND { "verified" } else { "restored" };
            return Err(Error::Unprocessable(format!("Backup {id} is being {what}.")));
        }
        if backup.state != BackupState::Deleting {
            self.store.begin_backup_deletion(conn, id).await?;
        }
        Ok(())
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

/// Whether a backup of the instance can build on this one.
///
/// # Errors
/// 400, 409.
fn check_parent(parent: &Backup, instance: &Instance) -> Result<()> {
    let id = parent.id;
    let refused = |why: String| Err(Error::BadRequest(format!("Backup {id} cannot be the parent_id: {why}.")));
    if parent.instance != instance.id {
        return refused(format!("it is of the instance {}", parent.instance));
    }
    if parent.state != BackupState::Completed {
        let state = parent.state.tag();
        return Err(Error::Conflict(format!(
            "Backup {id} cannot be the parent_id: its status is {state}, not COMPLETED."
        )));
    }
    if parent.source.version_number != instance.version_number {
        let (before, now) = (&parent.source.version_number, &instance.version_number);
        return refused(format!("it was taken of {before}, and the instance runs {now}"));
    }
    if parent.stored.as_ref().is_none_or(|stored| stored.checkpoint.is_none()) {
        return refused("nothing builds on it".to_owned());
    }
    Ok(())
}

/// Whether what this project has is there for the caller.
pub(super) fn is_of(caller: &Caller, project: &ProjectId) -> bool {
    caller.is_admin() || caller.project == *project
}

pub(super) fn no_backup(id: BackupId) -> Error {
    Error::NotFound(format!("Backup {id} cannot be found."))
}

#[cfg(test)]
mod tests;
