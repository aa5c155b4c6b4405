//! An engine that is a set of facts.

use std::collections::{BTreeMap, BTreeSet};

use trove_proto::v1;
use trove_strategy::Applied;
use v1::account_change::Kind as Change;

/// Something that an engine has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fact {
    /// A database.
    Database(String),
    User(String),
    /// An account's access to a database.
    Grant(String, String),
    /// That the all-powerful account can log in.
    Root,
}

/// What is on the volume of a host, and the process over it.
#[derive(Clone, Debug, Default)]
pub(super) struct Engine {
    pub(super) installed: bool,
    pub(super) running: bool,
    /// Whether the agent is to keep it running.
    pub(super) wanted: bool,
    pub(super) facts: BTreeSet<Fact>,
    /// What the running server has.
    pub(super) parameters: BTreeMap<String, String>,
    /// How often the work of a key was done and written down.
    pub(super) effects: BTreeMap<String, u32>,
    /// Greatest fence that came to the agent.
    pub(super) fence: u64,
}

impl Engine {
    /// Takes up parameters while it runs: those whose names begin with `cold` wait for a start, and so does their end.
    pub(super) fn take_up(&mut self, assigned: &BTreeMap<String, String>) -> BTreeMap<String, Applied> {
        self.parameters.retain(|name, _| name.starts_with("cold") || assigned.contains_key(name));
        let dropped = self.parameters.keys().filter(|name| !assigned.contains_key(*name));
        let mut became: BTreeMap<String, Applied> = dropped.map(|name| (name.clone(), Applied::NeedsRestart)).collect();
        for (name, value) in assigned {
            let waits = name.starts_with("cold") && self.parameters.get(name) != Some(value);
            if !waits {
                self.parameters.insert(name.clone(), value.clone());
            }
            became.insert(name.clone(), if waits { Applied::NeedsRestart } else { Applied::Live });
        }
        became
    }

    /// Makes one change, or finds it made.
    pub(super) fn change(&mut self, change: Change) -> Result<(), v1::Error> {
        match change {
            Change::CreateDatabase(database) => self.put(Fact::Database(database.name)),
            Change::DeleteDatabase(name) => {
                self.facts.retain(|fact| !matches!(fact, Fact::Grant(_, database) if *database == name));
                self.facts.remove(&Fact::Database(name));
            }
            Change::CreateUser(user) => {
                let name = user.account.unwrap_or_default().name;
                self.put(Fact::User(name.clone()));
                return self.grant(&name, user.databases);
            }
            Change::DeleteUser(account) => {
                self.facts.retain(|fact| !matches!(fact, Fact::Grant(user, _) if *user == account.name));
                self.facts.remove(&Fact::User(account.name));
            }
            Change::ChangeUser(change) => {
                let old = change.account.unwrap_or_default().name;
                return match change.new_name {
                    Some(new) => self.rename(&old, &new),
                    None => self.find(&old),
                };
            }
            Change::Grant(grant) => {
                let user = grant.account.unwrap_or_default().name;
                self.find(&user)?;
                return self.grant(&user, grant.databases);
            }
            Change::Revoke(revoke) => {
                self.facts.remove(&Fact::Grant(revoke.account.unwrap_or_default().name, revoke.database));
            }
            Change::EnableRoot(_) => self.put(Fact::Root),
            Change::DisableRoot(_) => {
                self.facts.remove(&Fact::Root);
            }
        }
        Ok(())
    }

    fn put(&mut self, fact: Fact) {
        self.facts.insert(fact);
    }

    fn find(&self, user: &str) -> Result<(), v1::Error> {
        if self.facts.contains(&Fact::User(user.to_owned())) {
            return Ok(());
        }
        Err(refuse(v1::ErrorKind::Gone, format!("there is no account {user}")))
    }

    fn grant(&mut self, user: &str, databases: Vec<String>) -> Result<(), v1::Error> {
        for database in databases {
            if !self.facts.contains(&Fact::Database(database.clone())) {
                return Err(refuse(v1::ErrorKind::Gone, format!("there is no database {database}")));
            }
            self.put(Fact::Grant(user.to_owned(), database));
        }
        Ok(())
    }

    fn rename(&mut self, old: &str, new: &str) -> Result<(), v1::Error> {
        if self.find(old).is_err() {
            // Renamed by the time before.
            return self.find(new);
        }
        let renamed = |fact: &Fact| match fact {
            Fact::User(user) if user == old => Fact::User(new.to_owned()),
            Fact::Grant(user, database) if user == old => Fact::Grant(new.to_owned(), database.clone()),
            other => other.clone(),
        };
        self.facts = self.facts.iter().map(renamed).collect();
        Ok(())
    }

    /// The databases that an account may enter.
    pub(super) fn grants(&self, user: &str) -> Vec<String> {
        let database = |fact: &Fact| match fact {
            Fact::Grant(who, database) if who == user => Some(database.clone()),
            _ => None,
        };
        self.facts.iter().filter_map(database).collect()
    }
}

/// An error as it goes over the wire.
pub(super) fn refuse(kind: v1::ErrorKind, message: impl Into<String>) -> v1::Error {
    v1::Error { kind: kind.into(), message: message.into() }
}
