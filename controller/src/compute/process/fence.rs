//! The fence of a host, in the host's directory.

use super::host::Hosts;
use crate::compute::{ComputeError, disk};
use crate::ids::InstanceId;

impl Hosts {
    pub(super) fn check_fence(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        disk::check_fence(&self.directory(instance), fence)
    }

    pub(super) fn raise_fence(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        disk::raise_fence(&self.directory(instance), fence)
    }
}
