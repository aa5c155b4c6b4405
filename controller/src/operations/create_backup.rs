//! Takes a backup of an instance whose engine runs. The use case writes the backup's row, with its key pair, when it asks for
//! it. Changes of accounts run beside it; what belongs to the life cycle is refused meanwhile.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `take` | the agent writes objects, the manifest last | - | 24 h, 5 attempts |
//! | `check` | none: reads what was stored and compares all sums; then what other tries have left is removed | - | 6 h |
//!
//! The row is NEW until the first step begins, then BUILDING, SAVING while it is checked, and COMPLETED in the end. When a step
//! fails it is FAILED, with the reason. With its end a backup of a schedule sends away those that the schedule keeps no longer. What ends this operation otherwise (a reset, a deletion of the instance) fails the row in
//! its own transaction, and no step moves it on from there. What was written of a failed one a reconciler removes: a storage that
//! is away is not to keep the instance busy, as an undo would.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use trove_proto::v1;
use trove_strategy::{Capability, Manifest};

use super::steps::{Member, Operation, StepError, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Target, Work};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ids::{BackupId, InstanceId, ScheduleId};
use crate::model::Instance;
use crate::model::backups::{Backup, BackupSource, BackupState, StoredBackup};
use crate::objects::{CheckError, Objects};
use crate::state::Task;
use crate::store::Store;
use crate::store::backups::NewRow;
use crate::store::quota::Amounts;
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
    #[serde(default)]
    checkpoint: Option<String>,
    #[serde(default)]
    memory_bytes: Option<u64>,
}

/// The operation that takes the backup whose row is written in the same transaction.
pub fn new(origin: Origin, params: Params) -> Result<NewOperation> {
    let state = serde_json::to_value(params).map_err(|error| Error::internal("write the parameters", error))?;
    Ok(NewOperation::of::<CreateBackup>(origin, state))
}

/// A backup to be taken.
#[derive(Clone, Debug)]
pub struct Order {
    pub origin: Origin,
    pub name: String,
    pub description: Option<String>,
    /// The backup that it builds on, which the caller's transaction has read.
    pub parent: Option<BackupId>,
    /// The schedule that makes it.
    pub schedule: Option<ScheduleId>,
}

/// Whether backups of this instance can be taken at all.
///
/// # Errors
/// 501.
pub fn check_able(instance: &Instance, manifest: &Manifest) -> Result<()> {
    if manifest.has(Capability::Backup) {
        return Ok(());
    }
    Err(Error::NotImplemented(format!("Datastore {} does not support backups.", instance.datastore)))
}

/// Writes a backup that is to be taken of an instance that is able and up: its use, its row with a key pair, and its operation.
/// On an error the caller must roll back.
///
/// # Errors
/// 404 when it is deleted; 413 quota; 422 when something has begun with it since it was read.
pub async fn submit(
    store: &Store,
    config: &Config,
    conn: &mut Connection,
    (instance, manifest): (&Instance, &Manifest),
    order: Order,
) -> Result<Backup> {
    let (id, key) = (BackupId::random(), Objects::new_key());
    let project = instance.project.clone();
    store.take_quota(conn, &project, Amounts::backup(), |resource| config.quota.limit(resource)).await?;
    match store.task(conn, instance.id).await? {
        Some(Task::None | Task::RestartRequired) => {}
        Some(task) => return Err(Instance { task, ..instance.clone() }.busy()),
        None => return Err(Error::NotFound(format!("Resource {} cannot be found.", instance.id))),
    }
    let recipients = Objects::recipients(config, &key.recipient);
    let params = Params { backup: id, recipients, segment_bytes: config.backups.segment_mib << 20 };
    let operation = store.enqueue(conn, new(order.origin, params)?).await?;
    let row = NewRow {
        id,
        project,
        name: order.name,
        description: order.description,
        instance: instance.id,
        source: source(instance, &manifest.installation.major),
        parent: order.parent,
        operation,
        schedule: order.schedule,
        recipient: key.recipient,
        identity: store.seal.seal(Backup::SEALED, &key.identity)?,
    };
    let created = store.insert_backup(conn, &row).await?;
    Ok(Backup {
        id,
        project: row.project,
        name: row.name,
        description: row.description,
        instance: row.instance,
        source: row.source,
        parent: row.parent,
        state: BackupState::New,
        operation,
        schedule: row.schedule,
        recipient: row.recipient,
        identity: row.identity,
        stored: None,
        fault: None,
        verification: None,
        created,
        updated: created,
    })
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
                checkpoint: taken.checkpoint.clone(),
                memory_bytes: taken.memory_bytes,
            };
            if work.context.store.complete_backup(conn, state.backup, &stored).await? {
                tracing::info!(instance_id = %instance, bytes = taken.data_bytes, "backup {} is complete", state.backup);
            }
        }
        trim(work, conn).await
    }

    async fn failed(work: &Work, conn: &mut Connection, _: &[InstanceId], error: &str) -> Result<()> {
        let message = format!("Taking the backup failed at {error}");
        work.context.store.fail_backup(conn, work.lease.id, &message).await?;
        work.context.store.fail_schedule_of(conn, work.lease.id, &message).await?;
        trim(work, conn).await
    }
}

/// Begins the deletion of what the backup's schedule, if it has one, keeps no longer.
async fn trim(work: &Work, conn: &mut Connection) -> Result<()> {
    let store = &work.context.store;
    let Some(schedule) = store.schedule_of(conn, work.lease.id).await? else { return Ok(()) };
    for id in store.trim_backups(conn, &schedule, store.now()).await? {
        tracing::info!(instance_id = %schedule.instance, "backup {id} is beyond what the schedule {} keeps", schedule.id);
    }
    Ok(())
}

async fn take(work: &Work, target: &Target, state: &Params, taken: &mut Taken) -> StepResult {
    let backup = move_on(work, state.backup, BackupState::Building).await?;
    let objects = &work.context.objects;
    let parent = match backup.parent {
        Some(parent) => Some(checkpoint(work, parent).await?),
        None => None,
    };
    let job = v1::start::Work::Backup(v1::Backup {
        parent,
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
        checkpoint: None,
        memory_bytes: None,
    };
    Ok(())
}

/// Where an increment on this backup begins.
async fn checkpoint(work: &Work, parent: BackupId) -> StepResult<v1::Parent> {
    let found = work.context.store.get_backup(parent).await?.and_then(|found| found.stored);
    let checkpoint = found.and_then(|stored| stored.checkpoint);
    let checkpoint =
        checkpoint.ok_or_else(|| StepError::Fatal(format!("backup {parent}, on which it builds, is gone")))?;
    Ok(v1::Parent { backup: parent.to_string(), checkpoint })
}

async fn check(work: &Work, _: &Target, state: &Params, taken: &mut Taken) -> StepResult {
    let backup = move_on(work, state.backup, BackupState::Saving).await?;
    let objects = &work.context.objects;
    let manifest = objects.check(backup.id, &taken.run, &taken.manifest_sum).await.map_err(|error| match error {
        CheckError::Damaged(what) => StepError::Fatal(format!("what was stored is not what was taken: {what}")),
        CheckError::Unavailable(what) => StepError::RetrySameKey(what),
    })?;
    if manifest.parent != backup.parent.map(|parent| parent.to_string()) {
        let of = manifest.parent.unwrap_or_else(|| "no other".to_owned());
        return Err(StepError::Fatal(format!("what was stored builds on {of} backup, which is not what was ordered")));
    }
    // The manifest is what a restore goes by, so what is shown is what it says.
    taken.data_bytes = manifest.data_bytes;
    taken.stored_bytes = manifest.stored_bytes();
    taken.position = manifest.position;
    taken.checkpoint = manifest.checkpoint;
    taken.memory_bytes = manifest.memory_bytes;
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
