//! Creates an instance from a backup.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `choose_address` to `await_agent` | as in `create_instance` | as there | as there |
//! | `restore` | the agent puts the backup in the place of the engine's data | - | 24 h, 5 attempts |
//! | `install_engine` | the agent starts the engine on them, which may replay its log, and makes the first accounts | - | 1 h |
//! | `await_healthy` | none: waits until the engine answers the agent's probe | - | 600 s |
//!
//! In the end the task is none and the host active, and root is enabled where it was on the source. When a step fails the row
//! stays, with task `building_error` and a fault that names the step and the reason. The backup is not deleted meanwhile: the
//! store looks for active operations of this kind whose state names it.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use trove_proto::v1;
use trove_strategy::Manifest;

use super::create_instance::{self, choose_address, delete_host, free_address, issue_certificate, remove_certificate};
use super::shared::{Engine, await_agent, await_healthy, boot_host};
use super::steps::{Member, Operation, StepError, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Target, Work};
use crate::error::{Error, Result};
use crate::ids::{BackupId, ContainerId, InstanceId};
use crate::model::Flavor;
use crate::model::backups::{Backup, BackupState};
use crate::model::logs::{LogContainer, LogPiece};
use crate::store::from_micros;
use crate::store::sql::Connection;

/// How long the agent has for the engine's data, retries included.
const RESTORE: Duration = Duration::from_secs(24 * 3600);
/// How often the agent begins anew.
const ATTEMPTS: u32 = 5;
/// An engine that was backed up at work replays its log when it is first started.
const INSTALL: Duration = Duration::from_secs(3600);

/// Room besides the data that an engine needs to start on them: for its log, and for what it reserves.
const ROOM: u64 = 128 << 20;

pub struct RestoreInstance;

/// From which backup, and what the engine is to have besides.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    pub backup: BackupId,
    /// First databases and accounts, beside those of the backup.
    pub first: create_instance::Params,
    /// Who has root enabled by this, where it was enabled on the source.
    pub root_by: Option<String>,
    /// The log that is replayed on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
}

/// A log, and how much of it is wanted. Times are microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    pub chain: ContainerId,
    /// When the backup was ordered: what the log had before that is in it.
    pub since: i64,
    /// What was committed then and before is wanted, by the clock of the instance that wrote it; `None`: all of it.
    pub until: Option<i64>,
    /// Up to this time the log was stored when it was ordered.
    pub covered: i64,
    /// What it takes on a volume.
    pub bytes: u64,
}

impl AsRef<create_instance::Params> for Params {
    fn as_ref(&self) -> &create_instance::Params {
        &self.first
    }
}

/// The operation that creates the instance whose row is written in the same transaction, in which the backup is complete.
pub fn new(origin: Origin, params: Params) -> Result<NewOperation> {
    let state = serde_json::to_value(params).map_err(|error| Error::internal("write the parameters", error))?;
    Ok(NewOperation::of::<RestoreInstance>(origin, state))
}

/// Whether it can be restored as far as its state says.
///
/// # Errors
/// 409.
pub fn check_complete(backup: &Backup) -> Result<()> {
    if backup.state == BackupState::Completed && backup.stored.is_some() {
        return Ok(());
    }
    let (id, state) = (backup.id, backup.state.tag());
    Err(Error::Conflict(format!("Backup {id} cannot be restored: its status is {state}, not COMPLETED.")))
}

/// Whether a flavor has memory for the backup's data, where the engine holds them there. A backup from before that was counted
/// says only how long its stream is, which is the least that they take.
///
/// # Errors
/// 422, with the figures.
pub fn check_memory(backup: &Backup, manifest: &Manifest, flavor: &Flavor) -> Result<()> {
    let (Some(room), Some(stored)) = (manifest.identity.data_memory_mib(flavor.ram_mib), &backup.stored) else {
        return Ok(());
    };
    let taken = stored.memory_bytes.unwrap_or(stored.data_bytes);
    if taken <= room << 20 {
        return Ok(());
    }
    Err(Error::Unprocessable(format!(
        "Backup {} has no room in the flavor {:?}: its data take {} MiB of memory, and of {} MiB data may have {room} MiB.",
        backup.id,
        flavor.id,
        taken.div_ceil(1 << 20),
        flavor.ram_mib
    )))
}

/// The most that what a chain holds can come to: no increment holds what the data already have, and none takes anything away.
pub fn data_bytes(chain: &[Backup]) -> u64 {
    chain.iter().filter_map(|backup| backup.stored.as_ref()).map(|stored| stored.data_bytes).sum()
}

/// The least volume for so many bytes of data, GiB.
pub fn least_volume_gib(data: u64) -> u64 {
    needed(data).div_ceil(1 << 30)
}

/// Bytes that an engine needs for so many bytes of data.
pub fn needed(data: u64) -> u64 {
    data.saturating_add(data / 10).saturating_add(ROOM)
}

#[async_trait]
impl Operation for RestoreInstance {
    const KIND: &'static str = "restore_instance";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Lifecycle;
    type State = Params;
    type TargetState = Engine;

    fn steps() -> Steps<Params, Engine> {
        Steps::default()
            .step("choose_address", Duration::from_secs(60), choose_address)
            .undo(free_address)
            .step("issue_certificate", Duration::from_secs(60), issue_certificate)
            .undo(remove_certificate)
            .step("boot_host", Duration::from_secs(300), boot_host)
            .undo(delete_host)
            .step("await_agent", Duration::from_secs(180), await_agent)
            .step("restore", RESTORE, restore)
            .attempts(ATTEMPTS)
            .step("install_engine", INSTALL, create_instance::install_engine)
            .step("await_healthy", Duration::from_secs(600), await_healthy)
    }

    async fn finished(work: &Work, conn: &mut Connection, state: &Params, targets: &[Member<Engine>]) -> Result<()> {
        if let (None, Some(user)) = (&state.first.root, &state.root_by) {
            // The account came with the data.
            for target in targets {
                work.context.store.set_root(conn, target.instance, Some(user)).await?;
            }
        }
        create_instance::created(work, conn, &state.first, targets).await
    }

    async fn failed(work: &Work, conn: &mut Connection, targets: &[InstanceId], error: &str) -> Result<()> {
        let message = format!("Creating the instance from its backup failed at {error}");
        create_instance::not_created(work, conn, targets, message).await
    }
}

async fn restore(work: &Work, target: &Target, state: &Params, _: &mut Engine) -> StepResult {
    let store = &work.context.store;
    let chain = store.get_backup_chain(state.backup).await?;
    // What is whole begins with a full one and has no gap, since each is read by the one that builds on it.
    if chain.first().is_none_or(|full| full.parent.is_some()) {
        return Err(StepError::Fatal(format!("backup {}, or one that it builds on, is gone", state.backup)));
    }
    let mut backups = Vec::new();
    for backup in &chain {
        let gone = || StepError::Fatal(format!("backup {} is gone", backup.id));
        let stored = backup.stored.as_ref().ok_or_else(gone)?;
        backups.push(v1::StoredBackup {
            backup: backup.id.to_string(),
            run: stored.run.clone(),
            manifest_sum: stored.manifest_sum.clone(),
            identity: store.seal.open(Backup::SEALED, &backup.identity)?.expose_secret().to_owned(),
        });
    }
    let mut runs: HashMap<_, _> =
        chain.iter().zip(&backups).map(|(backup, stored)| (stored.run.clone(), backup.id)).collect();
    let replay = match &state.replay {
        Some(wanted) => Some(replay(work, wanted, &mut runs).await?),
        None => None,
    };
    let assignment = store.get_assignment(target.instance).await?;
    let assignment = assignment.ok_or_else(|| StepError::Fatal("the instance has no assignment".to_owned()))?;
    let job = v1::start::Work::Restore(v1::Restore {
        generation: assignment.generation,
        specification: Some(assignment.to_proto()),
        chain: backups,
        replay,
    });
    let objects = work.context.objects.reader(runs, target.instance);
    target.run_job_with(work, job, &objects).await.map(drop)
}

/// What the agent is told of the log. Its runs are added to those that it may read.
async fn replay(work: &Work, wanted: &Replay, runs: &mut HashMap<String, BackupId>) -> StepResult<v1::Replay> {
    let store = &work.context.store;
    let (since, covered) = (from_micros(wanted.since), from_micros(wanted.covered));
    let mut log = Vec::new();
    for (container, pieces) in store.log_to_replay(wanted.chain, since, covered).await? {
        runs.extend(pieces.iter().map(|piece| (piece.run.clone(), container.id.objects())));
        let until = pieces.last().map(|piece| piece.ends.clone()).unwrap_or_default();
        let pieces = pieces.into_iter().map(|piece| {
            let sum = hex::decode(&piece.sum).map_err(|error| Error::internal("read the sum of a piece", error))?;
            let LogPiece { run, object, begins, bytes, .. } = piece;
            Ok(v1::StoredPiece { run, object, from: begins, bytes, sum })
        });
        log.push(v1::StoredLog {
            container: container.id.to_string(),
            identity: store.seal.open(LogContainer::SEALED, &container.identity)?.expose_secret().to_owned(),
            pieces: pieces.collect::<Result<_>>()?,
            until,
        });
    }
    if log.is_empty() {
        return Err(StepError::Fatal("the log that was to be replayed is gone".to_owned()));
    }
    Ok(v1::Replay { log, until_us: wanted.until })
}

#[cfg(test)]
mod tests;
