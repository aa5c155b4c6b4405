//! Has the driver remove what it brought to where hosts are made for versions that were taken away.

use crate::error::{Error, Result};
use crate::operations::RunnerContext;

/// Removes once.
///
/// # Errors
/// Internal: the store or the driver failed.
pub async fn reconcile(context: &RunnerContext) -> Result<()> {
    let kept = context.store.list_images().await?;
    let removed = context.compute.forget_programs(&kept).await;
    removed.map_err(|error| Error::internal("remove the programs of versions that were taken away", error))
}
