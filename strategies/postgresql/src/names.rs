//! Names that are refused.

use trove_strategy::{EngineError, Kind};

use crate::{GROUP_PREFIX, NAME_BYTES, RESERVED_DATABASES, RESERVED_ROLES};

/// The superuser that a tenant may ask for.
pub(crate) const ROOT: &str = "root";

/// Refuses a database that the server would cut off or that is not the tenant's.
pub(crate) fn check_database(name: &str) -> Result<(), EngineError> {
    let reason = if name.is_empty() || name.contains('\0') {
        "it is empty or contains NUL"
    } else if name.len() > NAME_BYTES {
        "it is longer than 63 bytes"
    } else if RESERVED_DATABASES.contains(&name) {
        "it is reserved"
    } else {
        return Ok(());
    };
    Err(EngineError::new(Kind::Invalid, format!("the name of the database {name:?}: {reason}")))
}

/// Whether a role is the server's or the agent's.
pub(crate) fn is_reserved_role(name: &str) -> bool {
    RESERVED_ROLES.contains(&name) || name.starts_with("pg_") || name.starts_with(GROUP_PREFIX)
}

/// Refuses a role that the server would cut off or that is not the tenant's.
pub(crate) fn check_role(name: &str) -> Result<(), EngineError> {
    let reason = if name.is_empty() || name.contains('\0') {
        "it is empty or contains NUL"
    } else if name.len() > NAME_BYTES {
        "it is longer than 63 bytes"
    } else if is_reserved_role(name) {
        "it is reserved"
    } else {
        return Ok(());
    };
    Err(EngineError::new(Kind::Invalid, format!("the name of the account {name:?}: {reason}")))
}

/// Under another name the superuser would outlive its being disabled, and a tenant's account must not become it.
pub(crate) fn not_root(name: &str) -> Result<(), EngineError> {
    if name == ROOT {
        return Err(EngineError::new(Kind::Invalid, format!("the account {ROOT:?} can only be enabled and disabled")));
    }
    Ok(())
}
