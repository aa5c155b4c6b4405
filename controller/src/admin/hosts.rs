//! `trove-controller hosts`, for the process driver.

use std::sync::Arc;

use super::arguments::{Options, existing};
use crate::compute::process::{ProcessDriver, ProcessOptions};
use crate::config::Config;
use crate::error::Result;

/// Stops every agent and its engine.
pub(super) async fn stop(options: &Options) -> Result<()> {
    let directory = existing(&options.state)?;
    let _lock = directory.lock()?;
    let options = ProcessOptions {
        state_dir: directory.path().to_owned(),
        config: Arc::new(Config::load(options.config.as_deref())?),
    };
    ProcessDriver::stop_hosts(&options).await
}
