//! Reconcilers, which keep the actual state equal to the stored one. A reconciler takes no input, works from the store
//! and from what the drivers report, is idempotent, and does not touch an instance that has an active operation.

use std::time::Duration;

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
pub mod parameters;
pub mod restarts;
pub mod squatters;

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

/// Runs the reconcilers until `shutdown`.
pub async fn run(context: RunnerContext, shutdown: CancellationToken) {
    let mut nudges = context.nudge.subscribe();
    let mut all_due = Instant::now();
    loop {
        nudges.mark_unchanged();
        let work = async {
            if Instant::now() >= all_due {
                all_due = Instant::now() + INTERVAL;
                if let Err(error) = hosts::reconcile(&context).await {
                    tracing::warn!("hosts could not be compared: {}", chain(&error));
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
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = work => {}
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            changed = nudges.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(all_due) => {}
        }
    }
}

#[cfg(test)]
mod tests;
