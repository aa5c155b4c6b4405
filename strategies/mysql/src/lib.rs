//! MariaDB and MySQL: whatever version is installed, in the layout of Debian's packages or in a directory that is named.
//!
//! Sources: the manuals of MariaDB and MySQL (accounts, privileges, system variables, the client/server protocol), tried on
//! MariaDB 10.11.19 of Debian 12 and MySQL 9.7.4 of Debian's sid.

mod access;
mod accounts;
mod backup;
mod binlog;
mod check;
mod client;
mod config;
mod databases;
mod engine;
mod hash;
mod install;
mod logs;
mod metrics;
mod names;
mod options;
mod owned;
mod parameters;
mod repair;
mod replay;
mod root;
mod sessions;
mod undeclared;
mod users;
mod variables;
mod xbstream;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use trove_strategy::{
    Backup, Client, Command, Databases, Datastore, Engine, EngineError, Host, Identity, Installation, NameRules,
    Parameters, Root, Site, Users,
};

pub use client::identifier;
use client::{Held, Session};

/// Which of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// MariaDB 10.11 and newer.
    MariaDb,
    /// MySQL 8.4 and newer.
    MySql,
}

impl Flavour {
    fn is_mariadb(self) -> bool {
        self == Self::MariaDb
    }

    fn server(self) -> &'static str {
        if self.is_mariadb() { "mariadbd" } else { "mysqld" }
    }

    fn program(self, site: &Site) -> PathBuf {
        site.installation.bindir.join(self.server())
    }

    /// The text for MariaDB or the one for MySQL.
    fn either<'a>(self, mariadb: &'a str, mysql: &'a str) -> &'a str {
        if self.is_mariadb() { mariadb } else { mysql }
    }

    fn identity(self) -> Identity {
        let mut identity = Identity::new(self.either("mariadb", "mysql"), 3306);
        names::ROOT.clone_into(&mut identity.root_user);
        identity.databases = NameRules::new(names::DATABASE_BYTES, names::RESERVED_DATABASES);
        identity.databases.reserved_prefixes = vec![names::RAW_PREFIX.to_owned()];
        identity.databases.max_stored_bytes = Some(names::STORED_BYTES);
        let longest = if self.is_mariadb() { 128 } else { 32 };
        identity.users.names = NameRules::new(longest, names::RESERVED_USERS);
        for rules in [&mut identity.databases, &mut identity.users.names] {
            rules.basic_plane = true;
            rules.ignore_case = true;
            rules.no_final_space = true;
        }
        identity.users.hosts = true;
        identity.users.names.no_outer_apostrophes = true;
        identity.users.rename = true;
        if !self.is_mariadb() {
            identity.users.passwords.max_bytes = Some(hash::SHA2_PASSWORD_BYTES);
            identity.users.names.no_outer_space = true;
        }
        let verify = self.either("--ssl-verify-server-cert", "--ssl-mode=VERIFY_CA");
        let args = [
            "--no-defaults",
            "--host={address}",
            "--port={port}",
            "--protocol=TCP",
            "--ssl-ca={ca_file}",
            verify,
            "--default-character-set=utf8mb4",
            "--user={user}",
            "--database={database}",
        ];
        let program = self.either("mariadb", "mysql");
        let mut client = Client::new(program, &args, &[("MYSQL_PWD", "{password}")]);
        client.unset.extend(["MYSQL", "MARIADB"].map(str::to_owned));
        identity.client = Some(client);
        identity
    }
}

/// The datastores `mariadb` and `mysql`: the same verbs in two dialects.
#[derive(Debug)]
pub struct Mysql {
    flavour: Flavour,
    held: Held,
    walked: tokio::sync::Mutex<Option<logs::Walked>>,
}

impl Mysql {
    /// The datastore named `mariadb`. It keeps a connection, and so is made once.
    pub const fn for_mariadb() -> Self {
        Self::new(Flavour::MariaDb)
    }

    /// The datastore named `mysql`.
    pub const fn for_mysql() -> Self {
        Self::new(Flavour::MySql)
    }

    const fn new(flavour: Flavour) -> Self {
        Self { flavour, held: Held::nothing(), walked: tokio::sync::Mutex::const_new(None) }
    }

    async fn session(&self, site: &Site) -> Result<Session<'_>, EngineError> {
        self.held.session(self.flavour, site).await
    }
}

#[async_trait]
impl Datastore for Mysql {
    fn identity(&self) -> Identity {
        self.flavour.identity()
    }

    async fn installations(&self, host: &dyn Host, bindir: Option<&Path>) -> Result<Vec<Installation>, EngineError> {
        let bindirs = match bindir {
            Some(bindir) => vec![bindir.to_owned()],
            None => ["/usr/local/mysql/bin", "/usr/local/sbin", "/usr/sbin"].map(PathBuf::from).to_vec(),
        };
        let mut found = Vec::new();
        for bindir in bindirs {
            let program = bindir.join(self.flavour.server());
            if host.has_program(&program).await? {
                let output = host.run(Command::engine(program).arg("--no-defaults").arg("--version")).await?;
                found.extend(installation(self.flavour, &output.stdout, bindir));
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
        self.flavour.has_backups().then_some(self as &dyn Backup)
    }
}

/// From `mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)`. MariaDB's packages have a program
/// named `mysqld` too.
fn installation(flavour: Flavour, said: &str, bindir: PathBuf) -> Option<Installation> {
    if said.contains("MariaDB") != (flavour == Flavour::MariaDb) {
        return None;
    }
    let version = plain_version(said.split_once("Ver ")?.1);
    let major = version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    Some(Installation::new(version, major, bindir))
}

/// The numbers at the beginning of what a server calls its version, such as `10.11.19` of `10.11.19-MariaDB-log`.
fn plain_version(said: &str) -> String {
    said.trim().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect()
}

fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_what_the_server_program_says() {
        let said = "mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)";
        let found = installation(Flavour::MariaDb, said, "/x".into()).unwrap();
        assert_eq!((found.version.as_str(), found.major.as_str()), ("10.11.19", "10.11"));
        assert!(installation(Flavour::MySql, said, "/x".into()).is_none(), "MariaDB's mysqld is no MySQL");
        let said = "/usr/sbin/mysqld  Ver 8.4.3 for Linux on x86_64 (MySQL Community Server - GPL)";
        let found = installation(Flavour::MySql, said, "/x".into()).unwrap();
        assert_eq!((found.version.as_str(), found.major.as_str()), ("8.4.3", "8.4"));
    }
}
