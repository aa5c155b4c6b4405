//! `trove-controller hosts`.

use std::sync::Arc;

use super::arguments::{Options, existing};
use crate::compute;
use crate::config::Config;
use crate::error::Result;

/// Stops every agent and its engine.
pub(super) async fn stop(options: &Options) -> Result<()> {
    let directory = existing(&options.state)?;
    let _lock = directory.lock()?;
    compute::stop_hosts(directory.path(), &Arc::new(Config::load(options.config.as_deref())?)).await
}
