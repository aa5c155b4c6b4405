//! Reconciles failed restarts. After a failed restart the agent keeps trying to start its engine. Once the engine
//! answers, the error of the instance is cleared.

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
        // Check in the transaction, since an operation may have begun meanwhile.
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
