//! PostgreSQL: whatever version is installed, in the layout of Debian's packages or in a directory that is named.
//!
//! Sources: the PostgreSQL manual (chapters 18 to 22 and 28, initdb, SQL commands), tried on 15.18 of Debian 12.

mod access;
mod amcheck;
mod archive;
mod backup;
mod catalog;
mod client;
mod config;
mod databases;
mod engine;
mod held;
mod locales;
mod logs;
mod metrics;
mod names;
mod owned;
mod parameters;
mod prepared;
mod repair;
mod replay;
mod root;
mod segment;
mod single_user;
mod users;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use trove_strategy::{
    Backup, Client, Command, Databases, Datastore, Engine, EngineError, Host, Identity, Installation, NameRules,
    Parameters, Root, Users,
};

use held::Held;

pub use client::{scram_verifier, sql_identifier, sql_literal};

/// Longest name of anything, bytes; the server cuts longer ones off with a mere notice.
const NAME_BYTES: usize = 63;

/// The datastore named `postgresql`.
#[derive(Debug)]
pub struct Postgresql {
    held: Held,
}

impl Postgresql {
    /// The strategy, with no connection yet.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "there is one, in a static or in an agent")]
    pub const fn new() -> Self {
        Self { held: Held::nothing() }
    }
}

/// Roles that the agent makes to hold a database's grants begin like this.
const GROUP_PREFIX: &str = "trove_access_";

/// Names of roles that are refused and hidden.
const RESERVED_ROLES: &[&str] = &["os_admin", "postgres", "public", "none"];

/// Names of databases that are refused and hidden.
const RESERVED_DATABASES: &[&str] = &["os_admin", "postgres", "template0", "template1"];

#[async_trait]
impl Datastore for Postgresql {
    fn identity(&self) -> Identity {
        let mut identity = Identity::new("postgresql", 5432);
        identity.root_user = names::ROOT.to_owned();
        identity.databases = NameRules::new(NAME_BYTES, RESERVED_DATABASES);
        identity.users.names = NameRules::new(NAME_BYTES, RESERVED_ROLES);
        identity.users.names.reserved_prefixes = vec!["pg_".to_owned(), GROUP_PREFIX.to_owned()];
        identity.users.rename = true;
        identity.users.passwords.saslprep = true;
        // psql reads a connection string where it is given a database, and libpq none in its environment.
        let env = [
            ("PGDATABASE", "{database}"),
            ("PGPASSWORD", "{password}"),
            ("PGSSLMODE", "verify-ca"),
            ("PGSSLROOTCERT", "{ca_file}"),
        ];
        let mut client = Client::new("psql", &["--host={address}", "--port={port}", "--username={user}"], &env);
        client.unset.push("PG".to_owned());
        client.package = Some("postgresql-client".to_owned());
        identity.client = Some(client);
        identity
    }

    async fn installations(&self, host: &dyn Host, bindir: Option<&Path>) -> Result<Vec<Installation>, EngineError> {
        let bindirs = match bindir {
            Some(bindir) => vec![bindir.to_owned()],
            None => packaged_bindirs(),
        };
        let mut found = Vec::new();
        for bindir in bindirs {
            let program = bindir.join("postgres");
            if host.has_program(&program).await? {
                let output = host.run(Command::engine(program).arg("--version")).await?;
                found.extend(installation(&output.stdout, bindir));
            }
        }
        found.sort_by_key(|installation| std::cmp::Reverse(numbers(&installation.version)));
        Ok(found)
    }

    fn engine(&self) -> &dyn Engine {
        self
    }

    fn databases(&self) -> Option<&dyn Databases> {
        Some(self)
    }

    fn users(&self) -> Option<&dyn Users> {
        Some(self)
    }

    fn root(&self) -> Option<&dyn Root> {
        Some(self)
    }

    fn parameters(&self) -> Option<&dyn Parameters> {
        Some(self)
    }

    fn backup(&self) -> Option<&dyn Backup> {
        Some(self)
    }
}

/// Where Debian's packages put server programs.
#[allow(clippy::disallowed_methods, reason = "programs of the system")]
fn packaged_bindirs() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/usr/lib/postgresql") else { return Vec::new() };
    entries.flatten().map(|entry| entry.path().join("bin")).collect()
}

/// From `postgres (PostgreSQL) 15.18 (Debian …)`.
fn installation(said: &str, bindir: PathBuf) -> Option<Installation> {
    let version = said.split_whitespace().nth(2)?.to_owned();
    let major = version.split(|c: char| !c.is_ascii_digit()).next()?.to_owned();
    Some(Installation::new(version, major, bindir))
}

fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_what_the_server_program_says() {
        let found = installation("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "/x".into()).unwrap();
        assert_eq!((found.version.as_str(), found.major.as_str()), ("15.18", "15"));
        let found = installation("postgres (PostgreSQL) 18beta1", "/x".into()).unwrap();
        assert_eq!(found.major, "18");
        assert!(numbers("15.9") < numbers("15.18"));
    }
}
