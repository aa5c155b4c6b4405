//! Redis and Valkey: whatever version is installed, in the layout of Debian's packages or in a directory that is named.
//!
//! Sources: the documentation of Redis (ACL, persistence, TLS, configuration), tried on 7.0.15 of Debian 12.

mod acl;
mod backup;
mod client;
mod config;
mod connections;
mod engine;
mod owned;
mod parameters;
mod root;
mod throwaway;
mod users;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use tokio::sync::RwLock;
use trove_strategy::{
    Backup, Client, Command, Datastore, Engine, EngineError, Host, Identity, Installation, NameRules, Parameters, Root,
    Site, Users,
};

use crate::client::Held;
pub use config::TLS_PORT;

/// Longest name of an account, bytes. The server has no limit of its own.
const NAME_BYTES: usize = 255;

/// What the server takes as the end of a name in its file of accounts.
const SPACES: &str = " \t\n\r\u{b}\u{c}";

/// The datastores `redis` and `valkey`: the same verbs, spoken to programs of other names.
#[derive(Debug)]
pub struct Redis {
    name: &'static str,
    server: &'static str,
    client: &'static str,
    client_password: &'static str,
    checker: &'static str,
    held: Held,
    /// Held by each backup that is being taken in this life of the agent.
    taking: RwLock<()>,
}

impl Redis {
    /// The datastore named `redis`.
    pub const fn for_redis() -> Self {
        Self {
            name: "redis",
            server: "redis-server",
            client: "redis-cli",
            client_password: "REDISCLI_AUTH",
            checker: "redis-check-rdb",
            held: Held::nothing(),
            taking: RwLock::const_new(()),
        }
    }

    /// The datastore named `valkey`.
    pub const fn for_valkey() -> Self {
        Self {
            name: "valkey",
            server: "valkey-server",
            client: "valkey-cli",
            client_password: "VALKEYCLI_AUTH",
            checker: "valkey-check-rdb",
            held: Held::nothing(),
            taking: RwLock::const_new(()),
        }
    }

    fn program(&self, site: &Site) -> PathBuf {
        site.installation.bindir.join(self.server)
    }
}

#[async_trait]
impl Datastore for Redis {
    fn identity(&self) -> Identity {
        let mut identity = Identity::new(self.name, 6379);
        identity.tls_port = Some(TLS_PORT);
        acl::ROOT.clone_into(&mut identity.root_user);
        // Databases are numbered and cannot be granted: there are no rules for their names.
        identity.users.names = NameRules::new(NAME_BYTES, &[acl::ADMIN, acl::ROOT]);
        SPACES.clone_into(&mut identity.users.names.forbidden_characters);
        identity.users.rename = true;
        identity.data_memory_percent = Some(config::DATA_PERCENT);
        let args = ["-h", "{address}", "-p", "{tls_port}", "--tls", "--cacert", "{ca_file}", "--user", "{user}"];
        let mut client = Client::new(self.client, &args, &[(self.client_password, "{password}")]);
        client.package = Some(format!("{}-tools", self.name));
        identity.client = Some(client);
        identity
    }

    async fn installations(&self, host: &dyn Host, bindir: Option<&Path>) -> Result<Vec<Installation>, EngineError> {
        let bindirs = match bindir {
            Some(bindir) => vec![bindir.to_owned()],
            None => ["/usr/local/bin", "/usr/bin"].map(PathBuf::from).to_vec(),
        };
        let mut found = Vec::new();
        for bindir in bindirs {
            let program = bindir.join(self.server);
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

/// From `Redis server v=7.0.15 sha=…`. Files of data are readable by the same minor version and by later ones.
fn installation(said: &str, bindir: PathBuf) -> Option<Installation> {
    let version = said.split_whitespace().find_map(|word| word.strip_prefix("v="))?.to_owned();
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
        let said = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7c971a948f0";
        let found = installation(said, "/x".into()).unwrap();
        assert_eq!((found.version.as_str(), found.major.as_str()), ("7.0.15", "7.0"));
        let found = installation("Valkey server v=8.1.1 sha=00000000:0 malloc=libc bits=64", "/x".into()).unwrap();
        assert_eq!((found.version.as_str(), found.major.as_str()), ("8.1.1", "8.1"));
        assert!(installation("something else", "/x".into()).is_none());
    }
}
