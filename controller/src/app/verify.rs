//! Verification of a backup: it is restored to a scratch instance, the engine's own check runs there, and the scratch instance
//! is deleted. It is of the backup's project, is shown to administrators alone, counts against no quota and is not reached from
//! outside.

use super::App;
use super::backups::{is_of, no_backup};
use super::restore::{check_complete, check_restorable, data_bytes, least_volume_gib};
use super::submit::Accepted;
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::{BackupId, InstanceId, OperationId};
use crate::model::backups::Backup;
use crate::model::{Access, Flavor, Purpose, Requirements};
use crate::operations::steps::Operation as _;
use crate::operations::verify_backup::VerifyBackup;
use crate::operations::{Origin, verify_backup};
use crate::store::instances::NewRow;

/// As many backups are verified at once by all controllers of a store: each is a whole engine beside those of tenants.
const AT_ONCE: u64 = 2;

impl App {
    /// Has one of the caller's project's backups verified (any, for an admin).
    ///
    /// # Errors
    /// As of [`App::submit_verification`]; 404.
    pub async fn verify_backup(&self, caller: &Caller, request_id: &str, id: BackupId) -> Result<Accepted> {
        let found = self.store.get_backup(id).await?;
        let backup = found.filter(|found| is_of(caller, &found.project)).ok_or_else(|| no_backup(id))?;
        self.submit_verification(&backup, &caller.user_id, request_id).await
    }

    /// Has a backup verified, for a user or for the service itself.
    ///
    /// # Errors
    /// 409: it is not complete, is being verified, or two others are; 400: its version cannot restore it any more; 403: it
    /// brings root along where root is not allowed.
    pub async fn submit_verification(&self, backup: &Backup, user_id: &str, request_id: &str) -> Result<Accepted> {
        check_complete(backup)?;
        if backup.source.root_by.is_some() {
            // The data bring the account along.
            self.check_root_allowed()?;
        }
        let row = self.scratch(backup).await?;
        let origin = Origin {
            targets: vec![row.id],
            project: backup.project.clone(),
            request_id: request_id.to_owned(),
            user_id: user_id.to_owned(),
        };
        let operation = verify_backup::new(origin, backup.id)?;
        let mut tx = self.store.begin().await?;
        // Looked at again: others may have been faster.
        let now = self.store.backup(&mut tx, backup.id).await?.ok_or_else(|| no_backup(backup.id))?;
        check_complete(&now)?;
        if self.store.backup_reader(&mut tx, backup.id).await?.as_deref() == Some(VerifyBackup::KIND) {
            return Err(Error::Conflict(format!("Backup {} is being verified already.", backup.id)));
        }
        if self.store.count_verifications(&mut tx).await? >= AT_ONCE {
            return Err(Error::Conflict(format!(
                "Backup {} cannot be verified now: {AT_ONCE} backups are being verified, and no more are at once.",
                backup.id
            )));
        }
        self.store.insert_instance(&mut tx, &row).await?;
        let kind = operation.kind;
        let operation: OperationId = self.store.enqueue(&mut tx, operation).await?;
        self.store.begin_verification(&mut tx, backup.id, operation).await?;
        self.commit(tx, kind).await?;
        Ok(Accepted { operation })
    }

    /// The scratch instance: as the source of the backup was, with room for its data.
    async fn scratch(&self, backup: &Backup) -> Result<NewRow> {
        let (datastore, version) = self.get_version_by_id(true, backup.source.version_id).await?;
        let manifest = self.manifest(&version).await?;
        let chain = self.store.get_backup_chain(backup.id).await?;
        chain.iter().try_for_each(check_complete)?;
        let data = data_bytes(&chain);
        let volume_gib = match backup.source.volume_gib {
            0 => 0,
            size => size.max(least_volume_gib(data)),
        };
        check_restorable(backup, data, &datastore, &manifest, volume_gib)?;
        // The row stays when the source is deleted.
        let source = self.store.get_instance(backup.instance).await?;
        let flavor = self.flavor_like(source.as_ref().map(|source| &source.flavor))?;
        Ok(NewRow {
            id: InstanceId::random(),
            project: backup.project.clone(),
            name: format!("verification of backup {}", backup.id),
            purpose: Some(Purpose::Verification),
            flavor: flavor.clone(),
            volume_gib,
            version: version.id,
            region: self.config.region.clone(),
            port: manifest.identity.port,
            requirements: Requirements {
                access: Some(Access { is_public: false, allowed_cidrs: Some(Vec::new()) }),
                ..Requirements::default()
            },
            configuration: None,
            deletion_protection: false,
        })
    }

    /// The flavor that is there under the id; else the smallest that has as much memory, or the greatest.
    fn flavor_like(&self, wanted: Option<&Flavor>) -> Result<&Flavor> {
        let all = self.list_flavors();
        let same = wanted.and_then(|wanted| all.iter().find(|flavor| flavor.id == wanted.id));
        let ram_mib = wanted.map_or(0, |wanted| wanted.ram_mib);
        let fits = || all.iter().filter(|flavor| flavor.ram_mib >= ram_mib).min_by_key(|flavor| flavor.ram_mib);
        let greatest = || all.iter().max_by_key(|flavor| flavor.ram_mib);
        let none = || Error::Unprocessable("There is no flavor for the scratch instance.".to_owned());
        same.or_else(fits).or_else(greatest).ok_or_else(none)
    }
}

#[cfg(test)]
mod tests;
