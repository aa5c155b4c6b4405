//! Verification of a backup: it is restored to a scratch instance, the engine's own check runs there, and the scratch instance
//! is deleted. It is of the backup's project, is shown to administrators alone, counts against no quota and is not reached from
//! outside.

use super::App;
use super::backups::{is_of, no_backup};
use super::restore::check_restorable;
use super::submit::Accepted;
use crate::error::Result;
use crate::identity::Caller;
use crate::ids::BackupId;
use crate::operations::restore_instance::{check_complete, data_bytes};
use crate::operations::steps::Operation as _;
use crate::operations::verify_backup::{self, Order, VerifyBackup};

impl App {
    /// Has one of the caller's project's backups verified (any, for an admin).
    ///
    /// # Errors
    /// 404; 409: it is not complete, is being verified, or as many others are as may be; 400: its version cannot restore it any more;
    /// 403: it brings root along where root is not allowed.
    pub async fn verify_backup(&self, caller: &Caller, request_id: &str, id: BackupId) -> Result<Accepted> {
        let chain = self.store.get_backup_chain(id).await?;
        let backup = chain.last().filter(|found| is_of(caller, &found.project)).ok_or_else(|| no_backup(id))?;
        chain.iter().try_for_each(check_complete)?;
        let (datastore, version) = self.get_version_by_id(true, backup.source.version_id).await?;
        let manifest = self.manifest(&version).await?;
        // The scratch instance has room for them.
        check_restorable(backup, data_bytes(&chain), &datastore, &manifest, 0)?;
        let may_have_root = self.compute.may_have_root(&self.config);
        let order = Order::of(&self.store, &self.config, &chain, may_have_root).await?;
        let mut tx = self.store.begin().await?;
        let operation = verify_backup::submit(&self.store, &mut tx, order, (&caller.user_id, request_id)).await?;
        self.commit(tx, VerifyBackup::KIND).await?;
        Ok(Accepted { operation })
    }
}

#[cfg(test)]
mod tests;
