//! Removes the objects of backups that are to be deleted or that have failed, and then the rows. What cannot be removed is tried
//! again each minute.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, chain};
use crate::ids::ContainerId;
use crate::model::backups::BackupState;
use crate::operations::RunnerContext;
use crate::store::backups::Unwanted;

/// Interval in which all of them are tried.
const INTERVAL: Duration = Duration::from_secs(60);
/// Interval in which the storage is looked through, which reads a directory for each backup.
const SWEEP: Duration = Duration::from_secs(3600);

/// Removes what is to be removed, at each nudge and periodically, until `shutdown`.
pub async fn run(context: RunnerContext, shutdown: CancellationToken) {
    let mut nudges = context.nudge.subscribe();
    let (mut all_due, mut sweep_due) = (Instant::now(), Instant::now());
    loop {
        let work = async {
            let all = Instant::now() >= all_due;
            if all {
                all_due = Instant::now() + INTERVAL;
            }
            if all && let Err(error) = super::logs::reconcile(&context).await {
                tracing::warn!("old logs could not be looked at: {}", chain(&error));
            }
            if let Err(error) = reconcile(&context, all).await {
                tracing::warn!("backups that are to be removed could not be looked at: {}", chain(&error));
            }
            if Instant::now() >= sweep_due {
                sweep_due = Instant::now() + SWEEP;
                if let Err(error) = sweep(&context).await {
                    tracing::warn!("the storage of backups could not be looked through: {}", chain(&error));
                }
            }
            all_due
        };
        if !super::round(&mut nudges, &shutdown, work).await {
            return;
        }
    }
}

/// Removes once: what was just asked for, or with `all` also what is left of earlier times.
///
/// # Errors
/// Internal: the store failed. An object that cannot be removed is a matter of its backup.
pub async fn reconcile(context: &RunnerContext, all: bool) -> Result<()> {
    for unwanted in context.store.list_unwanted_backups().await? {
        if all || unwanted.state == BackupState::Deleting {
            remove(context, &unwanted).await?;
        }
    }
    Ok(())
}

async fn remove(context: &RunnerContext, unwanted: &Unwanted) -> Result<()> {
    let (store, id) = (&context.store, unwanted.id);
    let removed = context.objects.delete_backup(id).await;
    let mut tx = store.begin().await?;
    match removed {
        Ok(()) => store.backup_removed(&mut tx, unwanted).await?,
        Err(error) => {
            tracing::warn!("the objects of backup {id} could not be removed: {}", chain(&error));
            store.backup_not_removed(&mut tx, id, "Its objects could not be removed.").await?;
        }
    }
    tx.commit().await.map_err(|error| Error::internal(format!("write what became of backup {id}"), error))?;
    context.changes.bump();
    Ok(())
}

/// Has the storage remove what killed processes have left in it, and tells of what belongs to no backup.
///
/// # Errors
/// Internal: storage or store failed.
async fn sweep(context: &RunnerContext) -> Result<()> {
    // Before the rows: each is written before its first object, and removed after its last one.
    for held in context.objects.sweep().await? {
        let is_log = context.store.has_log_container(ContainerId(held.backup.0)).await?;
        if !is_log && context.store.get_backup(held.backup).await?.is_none() {
            // They are of another store, or this store was restored from an older state of it: an operator must decide, since
            // they may be the only copy of somebody's data.
            tracing::warn!(
                "{} MiB of objects belong to backup {}, which this store does not know; they are left alone",
                held.bytes >> 20,
                held.backup
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backups::Backup;
    use crate::testing::operations::Stage;

    async fn deleted(stage: &Stage) -> Backup {
        let (store, backup) = (&stage.context.store, stage.stored_backup().await);
        let mut tx = store.begin().await.unwrap();
        store.begin_backup_deletion(&mut tx, backup.id).await.unwrap();
        tx.commit().await.unwrap();
        backup
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods, reason = "the directory is this test's alone")]
    async fn what_is_deleted_loses_its_objects_and_then_its_row() {
        let stage = Stage::ordered().await;
        let backup = deleted(&stage).await;
        let directory = stage.fixture.objects_directory().join(backup.id.to_string());
        std::fs::create_dir_all(directory.join("0123456789abcdef0123456789abcdef")).unwrap();
        reconcile(&stage.context, false).await.unwrap();
        assert!(!directory.exists());
        assert!(stage.context.store.get_backup(backup.id).await.unwrap().is_none());
        reconcile(&stage.context, true).await.unwrap();
        sweep(&stage.context).await.unwrap();
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods, reason = "the directory is this test's alone")]
    async fn what_cannot_be_removed_is_said_and_tried_again() {
        let stage = Stage::ordered().await;
        let backup = deleted(&stage).await;
        let (directory, away) =
            (stage.fixture.objects_directory(), stage.fixture.objects_directory().with_extension("away"));
        // The mark of the deletion cannot be written where a directory is in its place.
        std::fs::create_dir_all(directory.join(format!("{}.deleted/x", backup.id))).unwrap();
        reconcile(&stage.context, false).await.unwrap();
        let failed = stage.context.store.get_backup(backup.id).await.unwrap().unwrap();
        assert_eq!(failed.state, BackupState::DeleteFailed, "{:?}", failed.fault);
        std::fs::rename(directory.join(format!("{}.deleted", backup.id)), away).unwrap();
        reconcile(&stage.context, false).await.unwrap();
        assert!(stage.context.store.get_backup(backup.id).await.unwrap().is_some(), "only the timer tries again");
        reconcile(&stage.context, true).await.unwrap();
        assert!(stage.context.store.get_backup(backup.id).await.unwrap().is_none());
    }
}
