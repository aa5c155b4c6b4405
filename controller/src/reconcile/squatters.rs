//! Addresses: no program of an instance keeps the address of another from its engine. One that does is ended, and the instance
//! that it belongs to gets the fault.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, chain};
use crate::operations::RunnerContext;

/// An agent waits longer than this for the address of its engine to be free.
const INTERVAL: Duration = Duration::from_secs(2);

/// Looks again and again until `shutdown`.
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

/// Looks once.
///
/// # Errors
/// Internal: the driver could not look, or the store failed.
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
