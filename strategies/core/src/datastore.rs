//! A datastore: who it is, which engine it runs, and what that engine can do.

use std::path::Path;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::capability::{Databases, Parameters, Root, Users};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::host::Host;
use crate::password::PasswordRules;
use crate::site::Installation;

/// Rules for a name, so that the API can refuse a wrong one before any agent exists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRules {
    /// Longest name, bytes of UTF-8.
    pub max_bytes: usize,
    /// Names that are refused and hidden.
    pub reserved: Vec<String>,
    /// Beginnings of names that are refused and hidden.
    pub reserved_prefixes: Vec<String>,
    /// Characters that are refused, besides NUL.
    pub forbidden_characters: String,
}

/// What an account of this engine is like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserTraits {
    /// Rules for its name.
    pub names: NameRules,
    /// Whether accounts have host patterns; otherwise every host is `%`.
    pub hosts: bool,
    /// Whether an account can be renamed.
    pub rename: bool,
    /// Whether a name is written `database.name`.
    pub qualified: bool,
    /// Rules for its password, and for that of the all-powerful account.
    #[serde(default)]
    pub passwords: PasswordRules,
}

/// How the engine's own client program is opened. `{address}`, `{port}`, `{tls_port}`, `{user}`, `{database}`,
/// `{password}` and `{ca_file}` are replaced in one pass; the password never stands in `args`. A name may be any text: it
/// stands only where the program takes it as it is, never where it would read a connection string, a URL or an option.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The program's name, looked up in `PATH`.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Variables of the caller whose names begin like one of these are kept from it: they would say otherwise where it
    /// connects to.
    #[serde(default)]
    pub unset: Vec<String>,
}

/// Who the datastore is: what is true of every version of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The datastore's name in the API, such as `postgresql`.
    pub name: String,
    /// The flavour of a family, such as `mariadb`; equal to the name where there is but one.
    pub flavour: String,
    /// The port that tenants connect to.
    pub port: u16,
    /// The port of encrypted connections, for engines that cannot speak both on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_port: Option<u16>,
    /// The name of the all-powerful account.
    pub root_user: String,
    /// Rules for names of databases.
    pub databases: NameRules,
    /// What accounts are like.
    pub users: UserTraits,
    /// The client program.
    pub client: Client,
}

/// A datastore. Stateless; the agent's `main` lists them.
#[async_trait]
pub trait Datastore: Send + Sync {
    /// Who it is. Pure.
    fn identity(&self) -> Identity;
    /// The engine as it is installed: in `bindir` when given, else wherever the maker's packages put it, newest
    /// version first. An empty list means that it is not installed.
    async fn installations(&self, host: &dyn Host, bindir: Option<&Path>) -> Result<Vec<Installation>, EngineError>;
    /// The required verbs.
    fn engine(&self) -> &dyn Engine;
    /// Databases by name.
    fn databases(&self) -> Option<&dyn Databases> {
        None
    }
    /// Accounts.
    fn users(&self) -> Option<&dyn Users> {
        None
    }
    /// The all-powerful account.
    fn root(&self) -> Option<&dyn Root> {
        None
    }
    /// Parameters.
    fn parameters(&self) -> Option<&dyn Parameters> {
        None
    }
}
