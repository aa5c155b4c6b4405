//! Assignments: what the configuration asks for is stored, an engine's certificate never expires, and what is stored is
//! in force in the guest.

use std::time::Duration;

use futures::StreamExt as _;
use trove_proto::v1;

use crate::error::{Error, Result, chain};
use crate::operations::RunnerContext;
use crate::store::assignments::{AssignmentStatus, Specification};
use crate::store::controllers::GRACE;

/// A certificate that has less than this left is replaced.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How many agents are told at once.
const AT_ONCE: usize = 16;

/// Compares once.
///
/// # Errors
/// Internal: the assignments could not be listed. What goes wrong with one of them is logged.
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
    // Values that a tenant chose are not the configuration's, and the size is the instance's.
    let parameters = status.specification.parameters.clone();
    let wanted = Specification { parameters, volume_gib: status.volume_gib, ..wanted.clone() };
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

/// `false`: another controller was faster.
async fn replace(
    context: &RunnerContext,
    wanted: &Specification,
    status: &AssignmentStatus,
    expires: bool,
) -> Result<bool> {
    let instance = status.instance;
    let certificate = if expires {
        let facts = context.store.host_facts(instance).await?;
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
    let in_force = context
        .agents
        .assign(instance, request)
        .await
        .map_err(|error| Error::internal(format!("assign generation {}", assignment.generation), error))?;
    tracing::info!(instance_id = %instance, in_force, "instance {instance} was assigned");
    Ok(())
}
