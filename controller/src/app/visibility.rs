//! Who sees an instance.

use crate::error::Error;
use crate::identity::Caller;
use crate::ids::{ConfigurationId, InstanceId};
use crate::model::Instance;

/// Whether the instance is there for the caller. One that is no tenant's is so for the management alone.
pub(super) fn may_see(caller: &Caller, instance: &Instance) -> bool {
    instance.purpose.is_none() && (caller.is_admin() || caller.project == instance.project)
}

/// The same answer for what is not there and for what is not the caller's.
pub(super) fn not_found(id: InstanceId) -> Error {
    Error::NotFound(format!("Resource {id} cannot be found."))
}

/// As [`not_found`], of a configuration group.
pub(super) fn no_configuration(id: ConfigurationId) -> Error {
    Error::NotFound(format!("Configuration group {id} cannot be found."))
}
