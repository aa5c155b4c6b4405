//! Begins the verifications that are due of backups of schedules: of the newest complete one, once a backup is complete that was
//! begun when its schedule's `verify_due` had come.
//!
//! A verification is ordered and its schedule moved on in one transaction, which is conditional on the time that was read: of
//! several controllers one begins it, and a controller that is killed has begun it or not. What was missed while none ran is made
//! up for once, by the newest backup. A person's verification of a backup of the schedule counts as one.
//!
//! | why not | what follows |
//! |---|---|
//! | as many run as may | it begins when one has ended |
//! | the backup is verified or deleted meanwhile | what is due then is looked at again |
//! | else, such as a version that is gone | it stands on the schedule as a failure, and the next one is due in its time |

use crate::error::{Error, Result, chain};
use crate::model::backup_schedules::BackupSchedule;
use crate::operations::RunnerContext;
use crate::operations::verify_backup::{self, AT_ONCE, Order};
use crate::store::sql::Transaction;

/// As many run at once when one of these begins, this one among them: the last place is for a person.
const SCHEDULED_AT_ONCE: u64 = AT_ONCE - 1;
/// How many schedules are read at once.
const BATCH: u32 = 100;

/// Whether more can begin.
enum Begun {
    More,
    Full,
}

/// Begins once what is due.
///
/// # Errors
/// Internal: the store failed. What is wrong with one schedule is logged, and keeps no other from its turn.
pub async fn reconcile(context: &RunnerContext) -> Result<()> {
    for due in context.store.list_due_verifications(BATCH).await? {
        match begin(context, &due).await {
            Ok(Begun::More) => {}
            Ok(Begun::Full) => return Ok(()),
            Err(error) => {
                let (id, what) = (due.id, chain(&error));
                tracing::warn!(instance_id = %due.instance, "a verification for the schedule {id} could not be begun: {what}");
            }
        }
    }
    Ok(())
}

async fn begin(context: &RunnerContext, due: &BackupSchedule) -> Result<Begun> {
    let store = &context.store;
    let chain = store.get_scheduled_chain(due.id).await?;
    let Some(backup) = chain.last().filter(|backup| backup.created >= due.verify_due) else { return Ok(Begun::More) };
    let may_have_root = context.compute.may_have_root(&context.config);
    let order = Order::of(store, &context.config, &chain, may_have_root).await;
    let mut tx = store.begin().await?;
    // It may have been changed since it was read, or its backup verified by another controller or a person.
    let present = store.backup_schedule(&mut tx, due.id).await?;
    let is_due = |now: &BackupSchedule| !now.paused && now.verify.is_some() && now.verify_due == due.verify_due;
    let Some(present) = present.filter(is_due) else { return Ok(Begun::More) };
    let order = match order {
        Err(error @ Error::Internal { .. }) => return Err(error),
        Err(Error::Conflict(_)) => return Ok(Begun::More),
        Err(refusal) => {
            store
                .refuse_scheduled_verification(&mut tx, &present, backup, &format!("It was not begun: {refusal}"))
                .await?;
            commit(tx, due).await?;
            tracing::warn!(instance_id = %due.instance, "a verification for the schedule {} is left out: {refusal}", due.id);
            return Ok(Begun::More);
        }
        Ok(order) => order,
    };
    if store.count_verifications(&mut tx).await? >= SCHEDULED_AT_ONCE {
        return Ok(Begun::Full);
    }
    let request_id = format!("schedule-{}", present.id);
    match verify_backup::submit(store, &mut tx, order, (&present.user_id, &request_id)).await {
        Ok(_) => commit(tx, due).await?,
        // It is being deleted, or a person has it verified.
        Err(Error::Conflict(_) | Error::NotFound(_)) => return Ok(Begun::More),
        Err(error) => return Err(error),
    }
    context.changes.bump();
    context.nudge.now();
    Ok(Begun::More)
}

async fn commit(tx: Transaction, due: &BackupSchedule) -> Result<()> {
    tx.commit()
        .await
        .map_err(|error| Error::internal(format!("begin a verification for the schedule {}", due.id), error))
}

#[cfg(test)]
mod tests;
