//! Begins the backups of schedules that are due, and lets go of those that their schedules keep no longer.
//!
//! A backup is ordered and its schedule moved on in one transaction, which is conditional on the time that was read: of several
//! controllers one begins it, and a controller that is killed has begun it or not. What was missed while none ran is made up for
//! once, since the next time is the first one that is still to come. What is refused:
//!
//! | why | what follows |
//! |---|---|
//! | the instance is busy, or its engine does not run | it is tried again, [`TRIES`] times at growing intervals, unless the next time comes before; then it is left out |
//! | the quota is used up, or the datastore has no backups any more | it is left out |
//!
//! Where a schedule has increments, a backup builds on the one that its schedule has begun last. It is a full one when that has failed
//! or is gone or nothing builds on it, when a verification has found one of the chain damaged, when the engine has another version,
//! when the chain is as long as it may be, and once in each interval.
//!
//! What was left out, and why, is the schedule's fault until the next one is begun.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trove_strategy::Capability;

use crate::error::{Error, Result, chain};
use crate::ids::BackupId;
use crate::model::backup_schedules::BackupSchedule;
use crate::model::backups::{Backup, BackupState, VerificationState};
use crate::operations::{Origin, RunnerContext, create_backup};
use crate::store::backups::LONGEST_CHAIN;

/// Interval in which all schedules are looked at for backups that have become too old.
const RETENTION: Duration = Duration::from_secs(3600);
/// How long nothing is looked at by itself at most: where others hold all places, or something has failed.
const RETRY: Duration = Duration::from_secs(60);
/// How many schedules are read at once.
const BATCH: u32 = 100;
/// How often a backup is tried of an instance that is busy.
const TRIES: u32 = 8;
/// How long after the first try the second one comes; each next one after twice the time.
const FIRST_DELAY: Duration = Duration::from_secs(60);
/// Longest time between two tries.
const MOST_DELAY: Duration = Duration::from_secs(15 * 60);
/// Characters of an instance's name in the names of its backups.
const NAME: usize = 200;
const TIME: &[BorrowedFormatItem<'static>] = format_description!("[year][month][day]T[hour][minute][second]Z");
/// As the API writes times.
const SHOWN: &[BorrowedFormatItem<'static>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");

/// Begins what is due, and lets go of what is old, until `shutdown`.
pub async fn run(context: RunnerContext, shutdown: CancellationToken) {
    let mut nudges = context.nudge.subscribe();
    let mut retention_due = Instant::now();
    loop {
        let work = async {
            let now = context.store.now();
            if Instant::now() >= retention_due {
                retention_due = Instant::now() + RETENTION;
                if let Err(error) = retain(&context, now).await {
                    tracing::warn!("the backups of schedules could not be looked at: {}", chain(&error));
                }
            }
            let sleep = match reconcile(&context, now).await {
                Ok(due) => due.map_or(RETENTION, |due| (due - context.store.now()).try_into().unwrap_or_default()),
                Err(error) => {
                    tracing::warn!("backups that are due could not be begun: {}", chain(&error));
                    RETRY
                }
            };
            retention_due.min(Instant::now() + sleep.min(RETENTION))
        };
        if !super::round(&mut nudges, &shutdown, work).await {
            return;
        }
    }
}

/// What became of a backup that was due.
enum Fired {
    /// It was begun or left out, by this controller or another one.
    Settled,
    /// As many are being taken as may be.
    Full,
}

/// Begins once what is due at `now`; when something is due next, or is to be tried again.
///
/// # Errors
/// Internal: the store failed. What is wrong with one schedule is logged, and keeps no other from its turn.
pub async fn reconcile(context: &RunnerContext, now: OffsetDateTime) -> Result<Option<OffsetDateTime>> {
    let mut failed = false;
    for due in context.store.list_due_backup_schedules(now, BATCH).await? {
        match fire(context, &due, now).await {
            Ok(Fired::Settled) => {}
            Ok(Fired::Full) => return Ok(Some(now + RETRY)),
            Err(error) => {
                failed = true;
                let (id, what) = (due.id, chain(&error));
                tracing::warn!(instance_id = %due.instance, "the backup of the schedule {id} could not be begun: {what}");
            }
        }
    }
    if failed {
        return Ok(Some(now + RETRY));
    }
    context.store.next_backup_due().await
}

async fn fire(context: &RunnerContext, due: &BackupSchedule, now: OffsetDateTime) -> Result<Fired> {
    let store = &context.store;
    let refusal = match order(context, due, now).await {
        Err(error @ Error::Internal { .. }) => return Err(error),
        Err(refusal) => refusal,
        fired => return fired,
    };
    let next = next(due, now)?;
    // A busy instance is tried again, as long as that is before the next backup.
    let delay = FIRST_DELAY.saturating_mul(1 << due.tries.min(TRIES)).min(MOST_DELAY);
    let again = matches!(refusal, Error::Unprocessable(_)) && due.tries + 1 < TRIES && now + delay < next;
    let (tries, at) = if again { (due.tries + 1, now + delay) } else { (0, next) };
    let fault = if again {
        format!("The backup is tried again: {refusal}")
    } else {
        format!("The backup of {} was left out: {refusal}", written(now, SHOWN))
    };
    let mut tx = store.begin().await?;
    if store.put_off_scheduled_backup(&mut tx, due, tries, at, &fault).await? {
        commit(tx, due).await?;
        if !again {
            tracing::warn!(instance_id = %due.instance, "a backup of the schedule {} is left out: {refusal}", due.id);
        }
    }
    Ok(Fired::Settled)
}

/// Orders the backup and moves its schedule on, unless another controller has.
///
/// # Errors
/// 413 quota; 422 when the instance is busy or not up; 501; internal.
async fn order(context: &RunnerContext, due: &BackupSchedule, now: OffsetDateTime) -> Result<Fired> {
    let (store, config) = (&context.store, &context.config);
    let Some((mut instance, manifest)) = store.get_instance_with_manifest(due.instance).await? else {
        // It was deleted, and its schedules with it.
        return Ok(Fired::Settled);
    };
    instance.heartbeat_expiry_s = config.agents.heartbeat_expiry.as_secs();
    let able = create_backup::check_able(&instance, &manifest).and_then(|()| instance.check_up());
    let mut tx = store.begin().await?;
    // It may have been changed since it was read, or fired by another controller: what is refused then is not this backup.
    let present = store.backup_schedule(&mut tx, due.id).await?;
    let Some(present) = present.filter(|present| !present.paused && present.next_due == due.next_due) else {
        return Ok(Fired::Settled);
    };
    able?;
    if store.count_scheduled_backups(&mut tx).await? >= u64::from(config.backups.scheduled_at_once) {
        return Ok(Fired::Full);
    }
    let origin = Origin {
        targets: vec![present.instance],
        project: present.project.clone(),
        request_id: format!("schedule-{}", present.id),
        user_id: present.user_id.clone(),
    };
    let parent = match present.last_backup {
        Some(last) if present.full_every.is_some() && manifest.has(Capability::Incremental) => {
            parent(&present, &store.backup_chain(&mut tx, last).await?, &instance.version_number, now)
        }
        _ => None,
    };
    let (name, schedule) = (name(&instance.name, now), Some(present.id));
    let order = create_backup::Order { origin, name, description: None, parent, schedule };
    let backup = create_backup::submit(store, config, &mut tx, (&instance, &manifest), order).await?;
    if !store.begin_scheduled_backup(&mut tx, &present, backup.id, now, next(&present, now)?).await? {
        return Ok(Fired::Settled);
    }
    commit(tx, due).await?;
    context.changes.bump();
    context.nudge.now();
    Ok(Fired::Settled)
}

/// What a backup that is begun at `now` builds on, of the chain of the one before; `None`: it is a full one.
fn parent(schedule: &BackupSchedule, chain: &[Backup], version_number: &str, now: OffsetDateTime) -> Option<BackupId> {
    let (full, last) = (chain.first()?, chain.last()?);
    let is_sound = |backup: &Backup| {
        let verified = backup.verification.as_ref().is_none_or(|it| it.state != VerificationState::Failed);
        backup.state == BackupState::Completed && verified
    };
    let is_whole = full.parent.is_none() && chain.len() < LONGEST_CHAIN && chain.iter().all(is_sound);
    let checkpoint = last.stored.as_ref().and_then(|stored| stored.checkpoint.as_ref());
    let fits = checkpoint.is_some() && last.source.version_number == version_number;
    (is_whole && fits && !schedule.full_due(full.created, now)).then_some(last.id)
}

/// When it is due after `now`.
fn next(schedule: &BackupSchedule, now: OffsetDateTime) -> Result<OffsetDateTime> {
    schedule.due_after(now).ok_or_else(|| Error::Internal {
        attempt: format!("say when the schedule {} is due after {now}", schedule.id),
        source: None,
    })
}

/// The name of a backup that is begun at `now`.
fn name(instance: &str, now: OffsetDateTime) -> String {
    let start: String = instance.chars().take(NAME).collect();
    format!("{start}-{}", written(now, TIME))
}

fn written(time: OffsetDateTime, format: &[BorrowedFormatItem<'static>]) -> String {
    // Formatting into a String fails only for years that are no years.
    time.to_offset(time::UtcOffset::UTC).format(format).unwrap_or_default()
}

async fn commit(tx: crate::store::sql::Transaction, schedule: &BackupSchedule) -> Result<()> {
    let attempt = || format!("move on the schedule {}", schedule.id);
    tx.commit().await.map_err(|error| Error::internal(attempt(), error))
}

/// Begins the deletion of what schedules keep no longer at `now`; those who take a backup have done so at its end.
///
/// # Errors
/// Internal: the store failed.
pub async fn retain(context: &RunnerContext, now: OffsetDateTime) -> Result<Vec<BackupId>> {
    let store = &context.store;
    let (mut after, mut begun) = (None, Vec::new());
    loop {
        let schedules = store.active_backup_schedules(after, BATCH).await?;
        let Some(last) = schedules.last() else { break };
        after = Some(last.id);
        for schedule in &schedules {
            let mut tx = store.begin().await?;
            // In the transaction, since it may have been changed meanwhile.
            let Some(present) = store.backup_schedule(&mut tx, schedule.id).await? else { continue };
            let gone = store.trim_backups(&mut tx, &present, now).await?;
            commit(tx, schedule).await?;
            for id in &gone {
                tracing::info!(instance_id = %present.instance, "backup {id} is beyond what the schedule {} keeps", present.id);
            }
            begun.extend(gone);
        }
    }
    if !begun.is_empty() {
        context.changes.bump();
        context.nudge.now();
    }
    Ok(begun)
}

#[cfg(test)]
mod tests;
