//! Reconciles assignments: stores changes that follow from the configuration, renews engines' certificates before they
//! expire, and sends agents assignments that are not in force yet.

use std::time::Duration;

use futures::StreamExt as _;
use trove_proto::v1;

use crate::error::{Error, Result, chain};
use crate::operations::RunnerContext;
use crate::store::assignments::{AssignmentStatus, Specification};
use crate::store::controllers::GRACE;

/// A certificate is renewed this long before it expires.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Number of concurrent calls to agents.
const AT_ONCE: usize = 16;

/// Reconciles all assignments once.
///
/// # Errors
/// Internal: the assignments could not be listed. A failure with one of them is logged.
pub async fn reconcile(context: &RunnerContext) -> Result<()> {
    let assignments = context.store.list_settled_assignments().await?;
    let wanted = Specification::of(&context.config, context.store.agents_addresses(GRACE).await?);
    futures::stream::iter(assignments)
        .for_each_concurrent(AT_ONCE, |status| {
            let wanted = &wanted;
            async move {
                let instance = status.instance;
                if let Err(error) = settle(context, wanted, status).await {
                    tracing::warn!(instance_id = %instance, "instance {instance} was not assigned: {}", chain(&error));
                }
            }
        })
        .await;
    Ok(())
}

async fn settle(context: &RunnerContext, wanted: &Specification, status: AssignmentStatus) -> Result<()> {
    let expires = status.not_after - RENEW_BEFORE < context.store.now();
    // Parameters are the tenant's; size and number are the instance's. None comes from the configuration.
    let parameters = status.specification.parameters.clone();
    let AssignmentStatus { volume_gib, server_id, ships_log, .. } = status;
    let log = wanted.log.filter(|_| ships_log);
    let wanted = Specification { parameters, volume_gib, server_id, log, ..wanted.clone() };
    let changed = wanted != status.specification;
    if (expires || changed) && !replace(context, &wanted, &status, expires).await? {
        return Ok(());
    }
    let behind = expires || changed || status.in_force < status.generation;
    if behind && context.agents.state(status.instance).borrow().connected {
        return assign(context, &status).await;
    }
    Ok(())
}

/// Stores a new generation. `false` if another controller did so first.
async fn replace(
    context: &RunnerContext,
    wanted: &Specification,
    status: &AssignmentStatus,
    expires: bool,
) -> Result<bool> {
    let instance = status.instance;
    let certificate = if expires {
        let facts = context.store.host_facts(instance, None).await?;
        let Some(address) = facts.and_then(|facts| facts.address) else { return Ok(false) };
        Some(context.authorities.issue_engine(instance, &[address])?)
    } else {
        None
    };
    let mut tx = context.store.begin().await?;
    let replaced =
        context.store.replace_assignment(&mut tx, instance, status.generation, wanted, certificate.as_ref()).await?;
    tx.commit().await.map_err(|error| Error::internal(format!("change the assignment of {instance}"), error))?;
    tracing::info!(instance_id = %instance, expires, "the assignment of instance {instance} has changed");
    Ok(replaced)
}

async fn assign(context: &RunnerContext, status: &AssignmentStatus) -> Result<()> {
    let instance = status.instance;
    let Some(fence) = super::draw_fence(context, instance).await? else { return Ok(()) };
    let Some(assignment) = context.store.get_assignment(instance).await? else { return Ok(()) };
    let request =
        v1::AssignRequest { fence, generation: assignment.generation, specification: Some(assignment.to_proto()) };
    let reply = context
        .agents
        .assign(instance, request)
        .await
        .map_err(|error| Error::internal(format!("assign generation {}", assignment.generation), error))?;
    let in_force = reply.generation;
    tracing::info!(instance_id = %instance, in_force, "instance {instance} was assigned");
    Ok(())
}
