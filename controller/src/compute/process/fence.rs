//! The fence of a host: the greatest one that it was changed under, in a file that only this account can write. It lies in
//! the host's directory and goes with it.

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

    /// The greatest fence so far; 0 where there is none.
    fn fence(&self, instance: InstanceId) -> Result<u64, ComputeError> {
        let file = self.fence_file(instance);
        let Some(bytes) = if_there(fs::read(&file)).map_err(failed("read", &file))? else { return Ok(0) };
        let fence = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
        Ok(fence.unwrap_or_else(|| {
            // Refusing everything for a damaged disk would keep the host from being repaired or deleted.
            tracing::error!(%instance, "{} is damaged; whoever changes the host next writes it anew", file.display());
            0
        }))
    }

    /// Refuses a fence that is older than that of a change of the host.
    pub(super) fn check_fence(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        let seen = self.fence(instance)?;
        if fence < seen { Err(ComputeError::Fenced { fence, seen }) } else { Ok(()) }
    }

    /// The same, and writes the fence down, for good, before anything is changed. The caller holds the lock of the host until
    /// what decides about the host is changed too: a controller that stalls in between lets no other through. A host
    /// without directory has no fence.
    pub(super) fn raise_fence(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        self.check_fence(instance, fence)?;
        if !self.is_there(instance)? || self.fence(instance)? == fence {
            return Ok(());
        }
        write(&self.fence_file(instance), fence.to_string().as_bytes())
    }
}
