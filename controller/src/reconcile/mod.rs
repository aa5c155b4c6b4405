//! Reconcilers, which keep the actual state equal to the stored one. A reconciler takes no input, works from the store
//! and from what the drivers report, is idempotent, and does not touch an instance that has an active operation.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, chain};
use crate::ids::InstanceId;
use crate::operations::RunnerContext;
use crate::store::sql::Transaction;

pub mod assignments;
pub mod backups;
pub mod controllers;
pub mod hosts;
pub mod logs;
pub mod parameters;
pub mod programs;
pub mod restarts;
pub mod schedules;
pub mod scratch;
pub mod squatters;
pub mod verifications;

/// Interval in which hosts are reconciled, which asks the driver. The other reconcilers also run at each nudge.
const INTERVAL: Duration = Duration::from_secs(60);
/// Least pause between two runs, since nudges come in hundreds when many agents connect or instances are created.
const PAUSE: Duration = Duration::from_secs(1);

/// Draws a fence for calls of a reconciler to an agent or a driver. `None` if an operation is active on the instance.
async fn draw_fence(context: &RunnerContext, instance: InstanceId) -> Result<Option<u64>> {
    let mut tx = context.store.begin().await?;
    if context.store.is_busy(&mut tx, instance).await? {
        return Ok(None);
    }
    commit_fence(context, tx, instance).await.map(Some)
}

/// Check and draw in one transaction, so that an operation that begins later has a greater fence and its calls are
/// accepted.
async fn commit_fence(context: &RunnerContext, mut tx: Transaction, instance: InstanceId) -> Result<u64> {
    let fence = context.store.draw_fence(&mut tx).await?;
    tx.commit().await.map_err(|error| Error::internal(format!("draw a fence for instance {instance}"), error))?;
    Ok(fence.unsigned_abs())
}

/// One round of a reconciler: `work`, which says when there is some again without a nudge; then a pause, and the wait for that
/// time or a nudge. `false`: it is over.
async fn round(
    nudges: &mut watch::Receiver<u64>,
    shutdown: &CancellationToken,
    work: impl Future<Output = Instant>,
) -> bool {
    // Before the work, so that a nudge that comes during it is not lost.
    nudges.mark_unchanged();
    let round = async {
        let due = work.await;
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            biased;
            changed = nudges.changed() => changed.is_ok(),
            () = tokio::time::sleep_until(due) => true,
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => false,
        goes_on = round => goes_on,
    }
}

/// Runs the reconcilers until `shutdown`.
pub async fn run(context: RunnerContext, shutdown: CancellationToken) {
    let mut nudges = context.nudge.subscribe();
    let mut all_due = Instant::now();
    loop {
        let work = async {
            if Instant::now() >= all_due {
                all_due = Instant::now() + INTERVAL;
                if let Err(error) = scratch::reconcile(&context).await {
                    tracing::warn!("scratch instances could not be looked at: {}", chain(&error));
                }
                if let Err(error) = verifications::reconcile(&context).await {
                    tracing::warn!("verifications that are due could not be begun: {}", chain(&error));
                }
                if let Err(error) = hosts::reconcile(&context).await {
                    tracing::warn!("hosts could not be compared: {}", chain(&error));
                }
                if let Err(error) = programs::reconcile(&context).await {
                    tracing::warn!("what no version needs could not be removed: {}", chain(&error));
                }
                if let Err(error) = parameters::reconcile(&context).await {
                    tracing::warn!("parameters that wait could not be looked at: {}", chain(&error));
                }
            }
            if let Err(error) = assignments::reconcile(&context).await {
                tracing::warn!("assignments could not be compared: {}", chain(&error));
            }
            if let Err(error) = restarts::reconcile(&context).await {
                tracing::warn!("failed restarts could not be looked at: {}", chain(&error));
            }
            all_due
        };
        if !round(&mut nudges, &shutdown, work).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
