//! Reconciles hosts: deletes those of deleted instances, starts those that should run, and stores the state that the
//! driver sees.

use std::collections::HashMap;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::operations::RunnerContext;
use crate::state::{HostState, Task};
use crate::store::hosts::HostRow;

/// Pause before hosts that differ are looked at again. The driver restarts a dead agent in this time, so that it is not
/// reported.
const SECOND_LOOK: Duration = Duration::from_secs(2);

/// Reconciles all hosts once.
///
/// # Errors
/// Internal: the store failed, or the driver could not list the hosts.
pub async fn reconcile(context: &RunnerContext) -> Result<()> {
    // List the driver's hosts before the store's rows: the row is stored before the host is made, so each host has a
    // row then.
    let there =
        context.compute.list().await.map_err(|error| Error::internal("ask the driver which hosts there are", error))?;
    let rows = context.store.list_hosts(&there).await?;
    let by_id: HashMap<InstanceId, HostRow> = rows.iter().map(|row| (row.instance, *row)).collect();
    for instance in there {
        remove_leftover(context, instance, by_id.get(&instance)).await?;
    }
    // Leftovers are skipped. If one could not be deleted, it is tried next time; if its state was stored as present, it
    // would no longer be recognised.
    let settled = rows.iter().filter(|row| !is_leftover(row) && !row.busy);
    let mut different = Vec::new();
    for row in settled {
        if look(context, row.instance).await.is_some_and(|seen| seen != row.host || is_stopped(row, seen)) {
            different.push(*row);
        }
    }
    if different.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(SECOND_LOOK).await;
    for row in different {
        let Some(mut seen) = look(context, row.instance).await else { continue };
        if is_stopped(&row, seen) && start(context, row.instance).await? {
            seen = look(context, row.instance).await.unwrap_or(seen);
        }
        if seen != row.host {
            write(context, row, seen).await?;
        }
    }
    Ok(())
}

/// A fence for the driver; `None` where an operation is active that decides about the host. One that only waits for the agent
/// asks nothing of the driver, and would wait in vain for a host that nobody starts.
async fn draw_fence(context: &RunnerContext, instance: InstanceId) -> Result<Option<u64>> {
    let mut tx = context.store.begin().await?;
    if context.store.is_host_busy(&mut tx, instance).await? {
        return Ok(None);
    }
    super::commit_fence(context, tx, instance).await.map(Some)
}

async fn remove_leftover(context: &RunnerContext, instance: InstanceId, row: Option<&HostRow>) -> Result<()> {
    let Some(row) = row else {
        // Rows are never deleted, so the host belongs to another store, or this store was restored from an old backup.
        // An operator must decide, since the host's volume may be the only copy of its data.
        tracing::warn!(instance_id = %instance, "host {instance} belongs to no instance of this store; it is left alone");
        return Ok(());
    };
    if !is_leftover(row) || row.busy {
        return Ok(());
    }
    let Some(fence) = draw_fence(context, instance).await? else { return Ok(()) };
    tracing::warn!(instance_id = %instance, "host {instance} was left over; it is deleted");
    if let Err(error) = context.compute.delete_host(instance, fence).await {
        tracing::warn!(instance_id = %instance, "host {instance} could not be deleted: {error}");
    }
    context.agents.forget(instance);
    Ok(())
}

/// Whether the instance must have no host: it is deleted, or its failed create has removed the host. Hosts of other
/// instances are never deleted here.
fn is_leftover(row: &HostRow) -> bool {
    row.deleted || (row.task == Task::BuildingError && row.host == HostState::Absent)
}

/// Whether the host is stopped but should run. If its operation failed, it is left to an operator.
fn is_stopped(row: &HostRow, seen: HostState) -> bool {
    seen == HostState::Dead && matches!(row.task, Task::None | Task::RestartRequired)
}

/// Starts a host that was left stopped by an aborted operation, or by a controller that stalled and went on after
/// another one had finished the operation. Returns whether it was tried.
async fn start(context: &RunnerContext, instance: InstanceId) -> Result<bool> {
    let Some(fence) = draw_fence(context, instance).await? else { return Ok(false) };
    tracing::warn!(instance_id = %instance, "host {instance} was left stopped; it is started");
    if let Err(error) = context.ensure_host(instance, fence).await {
        tracing::warn!(instance_id = %instance, "host {instance} could not be started: {error}");
    }
    Ok(true)
}

async fn look(context: &RunnerContext, instance: InstanceId) -> Option<HostState> {
    match context.compute.describe(instance).await {
        Ok(seen) => Some(seen),
        Err(error) => {
            tracing::warn!(instance_id = %instance, "host {instance} could not be described: {error}");
            None
        }
    }
}

async fn write(context: &RunnerContext, row: HostRow, seen: HostState) -> Result<()> {
    let store = &context.store;
    let mut tx = store.begin().await?;
    // Check in the transaction, since an operation may have begun meanwhile.
    if store.is_host_busy(&mut tx, row.instance).await? {
        return Ok(());
    }
    tracing::info!(instance_id = %row.instance, "host {} is {}, it was {}", row.instance, seen.tag(), row.host.tag());
    store.set_host(&mut tx, row.instance, seen).await?;
    tx.commit().await.map_err(|error| Error::internal(format!("write the host of instance {}", row.instance), error))
}
