//! Takes a backup of an instance whose engine runs. The use case writes the backup's row, with its key pair, when it asks for
//! it. Changes of accounts run beside it; what belongs to the life cycle is refused meanwhile.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `take` | the agent writes objects, the manifest last | - | 24 h, 5 attempts |
//! | `check` | none: reads what was stored and compares all sums; then what other tries have left is removed | - | 6 h |
//!
//! The row is NEW until the first step begins, then BUILDING, SAVING while it is checked, and COMPLETED in the end. When a step
//! fails it is FAILED, with the reason. What ends this operation otherwise (a reset, a deletion of the instance) fails the row in
//! its own transaction, and no step moves it on from there. What was written of a failed one a reconciler removes: a storage that
//! is away is not to keep the instance busy, as an undo would.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use trove_proto::v1;

use super::steps::{Member, Operation, StepError, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Target, Work};
use crate::error::{Error, Result};
use crate::ids::{BackupId, InstanceId};
use crate::model::backups::{Backup, BackupState, StoredBackup};
use crate::objects::CheckError;
use crate::store::sql::Connection;

/// How long the agent has for the engine's data, retries included.
const TAKE: Duration = Duration::from_secs(24 * 3600);
/// How often the agent begins anew. Each time the engine is read as a whole, and its log or its commits wait for the storage.
const ATTEMPTS: u32 = 5;
/// How long reading all of it again may take.
const CHECK: Duration = Duration::from_secs(6 * 3600);

pub struct CreateBackup;

/// Which backup; the rest is in its row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    pub backup: BackupId,
    /// Whom it is encrypted to, and the greatest size of an object. They are those of the order: the job is the same, whichever
    /// controller asks for it.
    pub recipients: Vec<String>,
    pub segment_bytes: u64,
}

/// What the agent has stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Taken {
    run: String,
    manifest_sum: String,
    data_bytes: u64,
    stored_bytes: u64,
    position: Option<String>,
}

/// The operation that takes the backup whose row is written in the same transaction.
pub fn new(origin: Origin, params: Params) -> Result<NewOperation> {
    let state = serde_json::to_value(params).map_err(|error| Error::internal("write the parameters", error))?;
    Ok(NewOperation::of::<CreateBackup>(origin, state))
}

#[async_trait]
impl Operation for CreateBackup {
    const KIND: &'static str = "create_backup";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Backup;
    type State = Params;
    type TargetState = Taken;

    fn steps() -> Steps<Params, Taken> {
        Steps::default().step("take", TAKE, take).attempts(ATTEMPTS).step("check", CHECK, check)
    }

    async fn finished(work: &Work, conn: &mut Connection, state: &Params, targets: &[Member<Taken>]) -> Result<()> {
        for Member { instance, state: taken } in targets {
            let stored = StoredBackup {
                run: taken.run.clone(),
                manifest_sum: taken.manifest_sum.clone(),
                data_bytes: taken.data_bytes,
                stored_bytes: taken.stored_bytes,
                position: taken.position.clone(),
            };
            if work.context.store.complete_backup(conn, state.backup, &stored).await? {
                tracing::info!(instance_id = %instance, bytes = taken.data_bytes, "backup {} is complete", state.backup);
            }
        }
        Ok(())
    }

    async fn failed(work: &Work, conn: &mut Connection, _: &[InstanceId], error: &str) -> Result<()> {
        let message = format!("Taking the backup failed at {error}");
        work.context.store.fail_backup(conn, work.lease.id, &message).await
    }
}

async fn take(work: &Work, target: &Target, state: &Params, taken: &mut Taken) -> StepResult {
    let backup = move_on(work, state.backup, BackupState::Building).await?;
    let objects = &work.context.objects;
    let job = v1::start::Work::Backup(v1::Backup {
        backup: backup.id.to_string(),
        recipients: state.recipients.clone(),
        segment_bytes: state.segment_bytes,
    });
    let outcome = target
        .run_job_with(work, job, &objects.writer(backup.id, target.instance, most_bytes(backup.source.volume_gib)))
        .await?;
    let Some(v1::result::Outcome::BackedUp(done)) = outcome else {
        return Err(StepError::Fatal("the agent did not say what it has stored".to_owned()));
    };
    *taken = Taken {
        run: done.run,
        manifest_sum: done.manifest_sum,
        data_bytes: done.data_bytes,
        stored_bytes: done.stored_bytes,
        position: None,
    };
    Ok(())
}

async fn check(work: &Work, _: &Target, state: &Params, taken: &mut Taken) -> StepResult {
    let backup = move_on(work, state.backup, BackupState::Saving).await?;
    let objects = &work.context.objects;
    let manifest = objects.check(backup.id, &taken.run, &taken.manifest_sum).await.map_err(|error| match error {
        CheckError::Damaged(what) => StepError::Fatal(format!("what was stored is not what was taken: {what}")),
        CheckError::Unavailable(what) => StepError::RetrySameKey(what),
    })?;
    // The manifest is what a restore goes by, so what is shown is what it says.
    taken.data_bytes = manifest.data_bytes;
    taken.stored_bytes = manifest.stored_bytes();
    taken.position = manifest.position;
    Ok(objects.delete_other_runs(backup.id, &taken.run).await?)
}

/// As much as a backup of an engine with this volume may take: what a tenant fills the engine's stream with ends somewhere. Twice
/// the volume, since it may be over-full and a request may be made twice; without a volume as much as memory could hold.
fn most_bytes(volume_gib: u64) -> u64 {
    let gib = if volume_gib == 0 { 64 } else { volume_gib * 2 };
    (gib + 1) << 30
}

/// Shows how far the backup is.
async fn move_on(work: &Work, id: BackupId, state: BackupState) -> StepResult<Backup> {
    let store = &work.context.store;
    let given_up = || StepError::Fatal("the backup was given up".to_owned());
    let mut tx = work.begin().await?;
    let backup = store.backup(&mut tx, id).await?.ok_or_else(given_up)?;
    if !store.set_backup_state(&mut tx, id, state).await? {
        return Err(given_up());
    }
    work.commit(tx).await?;
    Ok(backup)
}

#[cfg(test)]
mod tests;
