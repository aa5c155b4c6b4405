//! Changes databases and accounts of an instance, in the order given. Leaves the instance's status alone.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `apply` | the agent, once it is connected (300 s), makes the changes; an engine that recovers is waited for | - | 900 s |
//!
//! In the end the instance's row says whether root is enabled. A failure is shown in the operation only.

use std::time::Duration;

use async_trait::async_trait;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use trove_proto::v1;

use super::steps::{Member, Operation, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Sealed, Target, Work};
use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::seal::Seal;
use crate::store::sql::Connection;

/// A database to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    pub name: String,
    /// The engine's name of a character set.
    pub character_set: Option<String>,
    /// The engine's name of a collation.
    pub collation: Option<String>,
}

/// One account of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub name: String,
    /// The hosts it may come from, `%` for any.
    pub host: String,
}

/// An account to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewUser {
    pub account: Account,
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
        account: Account,
        new_name: Option<String>,
        /// New hosts.
        new_host: Option<String>,
        new_password: Option<Sealed>,
    },
    /// Lets an account into databases.
    Grant {
        account: Account,
        /// Where to.
        databases: Vec<String>,
    },
    /// Takes that back.
    Revoke {
        account: Account,
        /// Where from.
        database: String,
    },
    /// Enables the all-powerful account, or gives it another password.
    EnableRoot { password: Sealed },
    /// Disables it.
    DisableRoot,
}

pub struct ChangeAccounts;

/// What is stored between the steps.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    changes: Vec<AccountChange>,
}

/// What the agent said in the end.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Applied {
    /// How many changes are made.
    changes: u32,
}

/// The operation that makes these changes, at least one.
pub fn new(origin: Origin, changes: Vec<AccountChange>) -> Result<NewOperation> {
    let state = serde_json::to_value(State { changes }).map_err(|error| Error::internal("write the changes", error))?;
    Ok(NewOperation::of::<ChangeAccounts>(origin, state))
}

#[async_trait]
impl Operation for ChangeAccounts {
    const KIND: &'static str = "change_accounts";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Accounts;
    type State = State;
    type TargetState = Applied;

    fn steps() -> Steps<State, Applied> {
        Steps::default().step("apply", Duration::from_secs(900), apply)
    }

    async fn finished(work: &Work, conn: &mut Connection, state: &State, targets: &[Member<Applied>]) -> Result<()> {
        for change in &state.changes {
            let user = match change {
                AccountChange::EnableRoot { .. } => Some(work.user_id.as_str()),
                AccountChange::DisableRoot => None,
                _ => continue,
            };
            for target in targets {
                work.context.store.set_root(conn, target.instance, user).await?;
            }
        }
        Ok(())
    }

    async fn failed(_: &Work, _: &mut Connection, _: &[InstanceId], _: &str) -> Result<()> {
        // The operation shows it; the instance is as it was.
        Ok(())
    }
}

async fn apply(work: &Work, target: &Target, state: &State, applied: &mut Applied) -> StepResult {
    target.facts(work).await?;
    let seal = &work.context.store.seal;
    let changes = state.changes.iter().map(|change| change.to_proto(seal)).collect::<Result<Vec<_>>>()?;
    let job = v1::start::Work::ChangeAccounts(v1::ChangeAccounts { changes });
    if let Some(v1::result::Outcome::AccountsChanged(changed)) = target.run_job(work, job).await? {
        applied.changes = changed.changes;
    }
    Ok(())
}

impl AccountChange {
    fn to_proto(&self, seal: &Seal) -> Result<v1::AccountChange> {
        use v1::account_change::Kind;
        let kind = match self {
            Self::CreateDatabase(database) => Kind::CreateDatabase(database.to_proto()),
            Self::DeleteDatabase(name) => Kind::DeleteDatabase(name.clone()),
            Self::CreateUser(user) => Kind::CreateUser(user.to_proto(seal)?),
            Self::DeleteUser(account) => Kind::DeleteUser(account.to_proto()),
            Self::ChangeUser { account, new_name, new_host, new_password } => Kind::ChangeUser(v1::ChangeUser {
                account: Some(account.to_proto()),
                new_name: new_name.clone(),
                new_host: new_host.clone(),
                new_password: new_password.as_ref().map(|password| open(password, seal)).transpose()?,
            }),
            Self::Grant { account, databases } => {
                Kind::Grant(v1::Grant { account: Some(account.to_proto()), databases: databases.clone() })
            }
            Self::Revoke { account, database } => {
                Kind::Revoke(v1::Revoke { account: Some(account.to_proto()), database: database.clone() })
            }
            Self::EnableRoot { password } => Kind::EnableRoot(v1::EnableRoot { password: open(password, seal)? }),
            Self::DisableRoot => Kind::DisableRoot(v1::DisableRoot {}),
        };
        Ok(v1::AccountChange { kind: Some(kind) })
    }
}

impl Database {
    pub(super) fn to_proto(&self) -> v1::Database {
        v1::Database {
            name: self.name.clone(),
            character_set: self.character_set.clone(),
            collation: self.collation.clone(),
        }
    }
}

impl Account {
    fn to_proto(&self) -> v1::Account {
        v1::Account { name: self.name.clone(), host: self.host.clone() }
    }
}

impl NewUser {
    pub(super) fn to_proto(&self, seal: &Seal) -> Result<v1::NewUser> {
        Ok(v1::NewUser {
            account: Some(self.account.to_proto()),
            password: open(&self.password, seal)?,
            databases: self.databases.clone(),
        })
    }
}

/// In clear, for the message to the agent only.
pub(super) fn open(password: &Sealed, seal: &Seal) -> Result<String> {
    Ok(password.open(seal)?.expose_secret().to_owned())
}

#[cfg(test)]
mod tests;
