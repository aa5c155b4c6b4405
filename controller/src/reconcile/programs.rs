//! Has the driver remove what it brought to where hosts are made for versions that were taken away.

use crate::compute::ComputeError;
use crate::error::{Error, Result, chain};
use crate::operations::RunnerContext;

/// Removes once.
///
/// # Errors
/// Internal: the store or the driver failed.
pub async fn reconcile(context: &RunnerContext) -> Result<()> {
    let kept = async {
        let kept = context.store.list_images().await;
        kept.map_err(|error| ComputeError::Transient(format!("look which versions there are: {}", chain(&error))))
    };
    let removed = context.compute.forget_programs(Box::pin(kept)).await;
    removed.map_err(|error| Error::internal("remove the programs of versions that were taken away", error))
}
