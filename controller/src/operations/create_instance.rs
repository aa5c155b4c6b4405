//! Creates an instance.

use serde::{Deserialize, Serialize};

use super::change_accounts::{Database, NewUser};
use super::{Lane, NewOperation, Origin, Sealed};
use crate::error::{Error, Result};

/// Its name.
pub const KIND: &str = "create_instance";
const VERSION: u16 = 1;

/// What the engine is to have from the beginning; the rest is in the instance's row.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Params {
    /// First databases.
    pub databases: Vec<Database>,
    /// First accounts.
    pub users: Vec<NewUser>,
    /// Password of the all-powerful account, to enable it at once.
    pub root: Option<Sealed>,
}

/// The operation that creates the instance whose row is written in the same transaction.
///
/// # Errors
/// Internal.
pub fn new(origin: Origin, params: Params) -> Result<NewOperation> {
    let state = serde_json::to_value(params).map_err(|error| Error::internal("write the parameters", error))?;
    let steps = ["choose_address", "issue_certificate", "boot_host", "await_agent", "install_engine", "await_healthy"];
    let steps = steps.map(str::to_owned).to_vec();
    Ok(NewOperation { kind: KIND, version: VERSION, origin, lane: Lane::Lifecycle, state, steps })
}
