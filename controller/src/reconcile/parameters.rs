//! Parameters that wait for a start of the engine: one that the agent made by itself, after a crash of the engine or of its
//! machine, has taken them up as well, or the agent has taken them back.

use futures::StreamExt as _;
use trove_proto::v1;

use crate::error::{Error, Result, chain};
use crate::ids::InstanceId;
use crate::operations::RunnerContext;
use crate::operations::parameters::{fault, results};
use crate::state::Service;

/// How many agents are asked at once.
const AT_ONCE: usize = 16;

/// Asks once.
///
/// # Errors
/// Internal: the instances could not be listed. What goes wrong with one of them is logged.
pub async fn reconcile(context: &RunnerContext) -> Result<()> {
    let waiting = context.store.list_waiting_parameters().await?;
    futures::stream::iter(waiting)
        .for_each_concurrent(AT_ONCE, |instance| async move {
            if let Err(error) = look(context, instance).await {
                let what = chain(&error);
                tracing::warn!(instance_id = %instance, "what became of the parameters of {instance} is not known: {what}");
            }
        })
        .await;
    Ok(())
}

async fn look(context: &RunnerContext, instance: InstanceId) -> Result<()> {
    let store = &context.store;
    let answers = {
        let state = context.agents.state(instance);
        let state = state.borrow();
        state.connected && state.service == Service::Healthy
    };
    if !answers {
        return Ok(());
    }
    let Some(fence) = super::draw_fence(context, instance).await? else { return Ok(()) };
    let Some(assignment) = store.get_assignment(instance).await? else { return Ok(()) };
    let request =
        v1::AssignRequest { fence, generation: assignment.generation, specification: Some(assignment.to_proto()) };
    let reply = context.agents.assign(instance, request).await;
    let reply = reply.map_err(|error| Error::internal("ask what became of the parameters", error))?;
    let now = results(&assignment.specification.parameters, reply);
    let mut tx = store.begin().await?;
    // In the transaction, since an operation may have begun meanwhile.
    if store.is_busy(&mut tx, instance).await? || store.parameter_results(&mut *tx, instance).await? == now {
        return Ok(());
    }
    store.set_parameter_results(&mut tx, instance, &now).await?;
    if let Some(message) = fault(&now) {
        store.set_fault(&mut tx, instance, Some((&message, ""))).await?;
    }
    let attempt = || format!("write what became of the parameters of {instance}");
    tx.commit().await.map_err(|error| Error::internal(attempt(), error))
}
