//! Changes databases and accounts of an instance, in the order given.

use serde::{Deserialize, Serialize};

use super::{Lane, NewOperation, Origin, Sealed};
use crate::error::{Error, Result};

/// Its name.
pub const KIND: &str = "change_accounts";
const VERSION: u16 = 1;

/// A database to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// The engine's name of a character set.
    pub character_set: Option<String>,
    /// The engine's name of a collation.
    pub collation: Option<String>,
}

/// One account of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// The hosts it may come from, `%` for any.
    pub host: String,
}

/// An account to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewUser {
    /// Which.
    pub account: Account,
    /// Its password.
    pub password: Sealed,
    /// The databases it may enter.
    pub databases: Vec<String>,
}

/// One change; the agent's `AccountChange` with its secrets sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountChange {
    /// Makes a database.
    CreateDatabase(Database),
    /// Removes the database of this name.
    DeleteDatabase(String),
    /// Makes an account.
    CreateUser(NewUser),
    /// Removes an account.
    DeleteUser(Account),
    /// Changes an account.
    ChangeUser {
        /// Which.
        account: Account,
        /// A new name.
        new_name: Option<String>,
        /// New hosts.
        new_host: Option<String>,
        /// A new password.
        new_password: Option<Sealed>,
    },
    /// Lets an account into databases.
    Grant {
        /// Which.
        account: Account,
        /// Where to.
        databases: Vec<String>,
    },
    /// Takes that back.
    Revoke {
        /// Which.
        account: Account,
        /// Where from.
        database: String,
    },
    /// Enables the all-powerful account, or gives it another password.
    EnableRoot {
        /// The password.
        password: Sealed,
    },
    /// Disables it.
    DisableRoot,
}

/// What is stored between the steps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    changes: Vec<AccountChange>,
}

/// The operation that makes these changes, at least one.
///
/// # Errors
/// Internal.
pub fn new(origin: Origin, changes: Vec<AccountChange>) -> Result<NewOperation> {
    let state = serde_json::to_value(State { changes }).map_err(|error| Error::internal("write the changes", error))?;
    let steps = vec!["apply".to_owned()];
    Ok(NewOperation { kind: KIND, version: VERSION, origin, lane: Lane::Accounts, state, steps })
}
