//! The fence of a host: the greatest fence under which it was changed. It is stored in the host's directory, in a file
//! that only this account can write, and is deleted with the host.

#![allow(
    clippy::disallowed_methods,
    reason = "the directory of a host is this account's; no engine's account can write it"
)]

use std::fs;
use std::path::PathBuf;

use trove_strategy::process::if_there;

use super::host::{Hosts, failed, write};
use crate::compute::ComputeError;
use crate::ids::InstanceId;

impl Hosts {
    fn fence_file(&self, instance: InstanceId) -> PathBuf {
        self.directory(instance).join("fence")
    }

    /// The stored fence; 0 if there is none.
    fn fence(&self, instance: InstanceId) -> Result<u64, ComputeError> {
        let file = self.fence_file(instance);
        let Some(bytes) = if_there(fs::read(&file)).map_err(failed("read", &file))? else { return Ok(0) };
        let fence = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
        Ok(fence.unwrap_or_else(|| {
            // Not an error: a damaged file must not keep the host from being repaired or deleted.
            tracing::error!(%instance, "{} is damaged; whoever changes the host next writes it anew", file.display());
            0
        }))
    }

    /// Refuses a fence that is smaller than the stored one.
    pub(super) fn check_fence(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        let seen = self.fence(instance)?;
        if fence < seen { Err(ComputeError::Fenced { fence, seen }) } else { Ok(()) }
    }

    /// Checks the fence and stores it durably, before anything is changed. The caller holds the lock of the host until
    /// its change of the host's configuration is done, so that a controller that stalls in between keeps the others
    /// out. A host without a directory has no fence.
    pub(super) fn raise_fence(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        self.check_fence(instance, fence)?;
        if !self.is_there(instance)? || self.fence(instance)? == fence {
            return Ok(());
        }
        write(&self.fence_file(instance), fence.to_string().as_bytes())
    }
}
