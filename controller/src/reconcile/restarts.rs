//! Restarts that failed: an agent goes on starting its engine. Once that answers, the instance is in error no more, as if it
//! had answered when the restart failed.

use crate::error::{Error, Result};
use crate::operations::RunnerContext;
use crate::state::{Service, Task};

pub async fn reconcile(context: &RunnerContext) -> Result<()> {
    let store = &context.store;
    for instance in store.list_failed_restarts().await? {
        let answers = {
            let state = context.agents.state(instance);
            let state = state.borrow();
            state.connected && state.service == Service::Healthy
        };
        if !answers {
            continue;
        }
        let mut tx = store.begin().await?;
        // In the transaction, since an operation may have begun meanwhile.
        if store.is_busy(&mut tx, instance).await?
            || !store.begin_task(&mut tx, instance, &[Task::Error], Task::None).await?
        {
            continue;
        }
        store.set_fault(&mut tx, instance, None).await?;
        let attempt = || format!("take instance {instance} out of its error");
        tx.commit().await.map_err(|error| Error::internal(attempt(), error))?;
        tracing::info!(instance_id = %instance, "the engine of instance {instance} answers after its restart had failed");
    }
    Ok(())
}
