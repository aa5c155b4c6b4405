//! Removes what is too old of logs of writes.

use crate::error::{Error, Result, chain};
use crate::operations::RunnerContext;

/// Removes once. What cannot be removed is tried again the next time.
///
/// # Errors
/// Internal: the store failed.
pub async fn reconcile(context: &RunnerContext) -> Result<()> {
    let store = &context.store;
    let mut tx = store.begin().await?;
    let given_up = store.give_up_old_logs(&mut tx).await?;
    tx.commit().await.map_err(|error| Error::internal("give up old logs", error))?;
    if given_up > 0 {
        tracing::info!("{given_up} containers of logs are older than is kept");
    }
    for id in store.unwanted_log_containers().await? {
        if let Err(error) = context.objects.delete_backup(id.objects()).await {
            tracing::warn!("the objects of the log {id} could not be removed: {}", chain(&error));
            continue;
        }
        let mut tx = store.begin().await?;
        store.log_container_removed(&mut tx, id).await?;
        tx.commit().await.map_err(|error| Error::internal("remove an old log", error))?;
    }
    Ok(())
}
