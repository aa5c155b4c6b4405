//! Hosts: none outlives its instance, each runs, and the store says what the driver sees.

use std::collections::HashMap;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::operations::RunnerContext;
use crate::state::{HostState, Task};
use crate::store::hosts::HostRow;

/// A driver starts a dead agent again within this; only what is still different afterwards is written.
const SECOND_LOOK: Duration = Duration::from_secs(2);

/// Compares once.
///
/// # Errors
/// Internal: the store failed, or the driver could not say which hosts there are.
pub async fn reconcile(context: &RunnerContext) -> Result<()> {
    // The driver first: the row of a host is written before the host is made, so each of these has one by now.
    let there =
        context.compute.list().await.map_err(|error| Error::internal("ask the driver which hosts there are", error))?;
    let rows = context.store.list_hosts(&there).await?;
    let by_id: HashMap<InstanceId, HostRow> = rows.iter().map(|row| (row.instance, *row)).collect();
    for instance in there {
        remove_leftover(context, instance, by_id.get(&instance)).await?;
    }
    // A leftover that could not be deleted now is deleted next time: recorded as there, it would be one no more.
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

async fn remove_leftover(context: &RunnerContext, instance: InstanceId, row: Option<&HostRow>) -> Result<()> {
    let Some(row) = row else {
        // Rows are never removed: this host is another store's, or this store was restored from an old copy. Its data
        // may be all that is left, so a person decides.
        tracing::warn!(instance_id = %instance, "host {instance} belongs to no instance of this store; it is left alone");
        return Ok(());
    };
    if !is_leftover(row) || row.busy {
        return Ok(());
    }
    let Some(fence) = super::draw_fence(context, instance).await? else { return Ok(()) };
    tracing::warn!(instance_id = %instance, "host {instance} was left over; it is deleted");
    if let Err(error) = context.compute.delete_host(instance, fence).await {
        tracing::warn!(instance_id = %instance, "host {instance} could not be deleted: {error}");
    }
    context.agents.forget(instance);
    Ok(())
}

/// Whether no host may be there. A failed create has undone its own; that of any other instance is never touched here,
/// whatever is stored of it.
fn is_leftover(row: &HostRow) -> bool {
    row.deleted || (row.task == Task::BuildingError && row.host == HostState::Absent)
}

/// Whether it is stopped and nobody means it to be. One whose operation failed is a person's.
fn is_stopped(row: &HostRow, seen: HostState) -> bool {
    seen == HostState::Dead && matches!(row.task, Task::None | Task::RestartRequired)
}

/// Starts a host that was left stopped: by an operation that was ended half-way, or by a controller that had stalled and came
/// back to it when another had finished. Whether it was tried.
async fn start(context: &RunnerContext, instance: InstanceId) -> Result<bool> {
    let Some(fence) = super::draw_fence(context, instance).await? else { return Ok(false) };
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
    // In the transaction, since an operation may have begun meanwhile.
    if store.is_busy(&mut tx, row.instance).await? {
        return Ok(());
    }
    tracing::info!(instance_id = %row.instance, "host {} is {}, it was {}", row.instance, seen.tag(), row.host.tag());
    store.set_host(&mut tx, row.instance, seen).await?;
    tx.commit().await.map_err(|error| Error::internal(format!("write the host of instance {}", row.instance), error))
}
