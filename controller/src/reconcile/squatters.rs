//! Kills squatters: processes of an instance that have bound the address of another instance. The instance of the
//! process gets a fault.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, chain};
use crate::operations::RunnerContext;

/// Interval of the search. An agent waits longer than this for the address of its engine.
const INTERVAL: Duration = Duration::from_secs(2);

/// Searches periodically until `shutdown`.
pub async fn run(context: RunnerContext, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if let Err(error) = reconcile(&context).await {
            tracing::warn!("addresses could not be compared: {}", chain(&error));
        }
    }
}

/// Searches once.
///
/// # Errors
/// Internal: the driver could not search, or the store failed.
pub async fn reconcile(context: &RunnerContext) -> Result<()> {
    let ended = context.compute.end_squatters().await;
    for squatter in ended.map_err(|error| Error::internal("look whether addresses are taken", error))? {
        let message = format!(
            "A program of this instance ({}) had taken the network address of another instance and was ended.",
            squatter.process
        );
        let mut tx = context.store.begin().await?;
        context.store.set_fault(&mut tx, squatter.instance, Some((&message, ""))).await?;
        let attempt = || format!("write the fault of instance {}", squatter.instance);
        tx.commit().await.map_err(|error| Error::internal(attempt(), error))?;
    }
    Ok(())
}
