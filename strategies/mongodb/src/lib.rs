//! MongoDB: mongod as a set of one member, in the layout of its maker's packages or in a directory that is named.
//!
//! Sources: the MongoDB manual (security, replication, configuration file options, server parameters, wire protocol), tried on
//! 6.0.5.

mod access;
mod backup;
mod client;
mod config;
mod databases;
mod dump;
mod engine;
mod known;
mod load;
mod metrics;
mod names;
mod parameters;
mod records;
mod repair;
mod replay;
mod replica_set;
mod roles;
mod root;
mod server;
mod taken_over;
mod tls;
mod users;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use trove_strategy::{
    Backup, Client, Command, Databases, Datastore, Engine, EngineError, Host, Identity, Installation, Parameters, Root,
    Users,
};

use crate::client::Held;

/// Where the server is looked for: where `make setup` puts it, and where its maker's packages do.
const BINDIRS: [&str; 3] = ["/usr/local/lib/trove-rs/mongodb/bin", "/usr/local/bin", "/usr/bin"];

/// What mongosh runs first. Names and the password are values of its environment, and become parts of a URL only by its own
/// encoding. An account is written `database.name`.
const CONNECT: &str = "const e = process.env, u = encodeURIComponent, at = e.TROVE_USER.indexOf('.'); \
    db = connect('mongodb://' + u(e.TROVE_USER.slice(at + 1)) + ':' + u(e.TROVE_PASSWORD) + '@' + e.TROVE_HOST + '/' + \
    u(e.TROVE_DATABASE) + '?authSource=' + u(e.TROVE_USER.slice(0, at)) + \
    '&directConnection=true&tls=true&tlsCAFile=' + u(e.TROVE_CA_FILE)); \
    delete process.env.TROVE_PASSWORD;";

/// The datastore named `mongodb`.
#[derive(Debug)]
pub struct Mongodb {
    held: Held,
}

impl Mongodb {
    /// It keeps connections, and so is made once.
    pub const fn new() -> Self {
        Self { held: Held::nothing() }
    }
}

impl Default for Mongodb {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Datastore for Mongodb {
    fn identity(&self) -> Identity {
        let mut identity = Identity::new("mongodb", 27017);
        identity.root_user = format!("{}.{}", names::HOME, names::ROOT);
        identity.databases = names::of_databases();
        identity.users.names = names::of_users();
        identity.users.qualified = true;
        identity.users.passwords.saslprep = true;
        let env = [
            ("TROVE_HOST", "{address}:{port}"),
            ("TROVE_USER", "{user}"),
            ("TROVE_PASSWORD", "{password}"),
            ("TROVE_DATABASE", "{database}"),
            ("TROVE_CA_FILE", "{ca_file}"),
        ];
        let mut client = Client::new("mongosh", &["--nodb", "--quiet", "--shell", "--eval", CONNECT], &env);
        client.package = Some("mongodb-mongosh (of the engine's maker)".to_owned());
        identity.client = Some(client);
        identity
    }

    async fn installations(&self, host: &dyn Host, bindir: Option<&Path>) -> Result<Vec<Installation>, EngineError> {
        let bindirs = bindir.map_or_else(|| BINDIRS.map(PathBuf::from).to_vec(), |bindir| vec![bindir.to_owned()]);
        let mut found = Vec::new();
        for bindir in bindirs {
            let program = bindir.join("mongod");
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

/// From `db version v6.0.5`. Files of data are readable by the same series (`6.0`), and by the next after an upgrade.
fn installation(said: &str, bindir: PathBuf) -> Option<Installation> {
    let version = said.lines().find_map(|line| line.strip_prefix("db version v"))?.trim().to_owned();
    let major = version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
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
        let said = "db version v6.0.5\nBuild Info: {\n    \"version\": \"6.0.5\",\n";
        let found = installation(said, "/x".into()).unwrap();
        assert_eq!((found.version.as_str(), found.major.as_str()), ("6.0.5", "6.0"));
        assert!(installation("something else", "/x".into()).is_none());
    }

    #[test]
    fn no_name_and_no_password_stands_in_an_argument() {
        let client = Mongodb::new().identity().client.unwrap();
        assert!(client.args.iter().all(|arg| !arg.contains("{user}") && !arg.contains("{password}")), "{client:?}");
    }
}
