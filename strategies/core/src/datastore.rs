//! A datastore: who it is, which engine it runs, and what that engine can do.

use std::path::Path;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::capability::{Backup, Databases, Parameters, Root, Users};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::host::Host;
use crate::password::PasswordRules;
use crate::site::Installation;

/// Rules for a name, so that the API can refuse a wrong one before any agent exists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NameRules {
    /// Longest name, bytes of UTF-8.
    pub max_bytes: usize,
    /// Names that are refused and hidden.
    pub reserved: Vec<String>,
    /// Beginnings of names that are refused and hidden.
    pub reserved_prefixes: Vec<String>,
    /// Characters that are refused, besides NUL.
    pub forbidden_characters: String,
    /// Whether names are reserved in capital letters too.
    #[serde(default)]
    pub ignore_case: bool,
    /// Whether only characters of Unicode's basic plane are allowed (none that takes four bytes).
    #[serde(default)]
    pub basic_plane: bool,
    /// Whether a name must not end with a space.
    #[serde(default)]
    pub no_final_space: bool,
    /// Whether a name must not begin or end with white space, for an engine that takes it away: ` root` would be `root`.
    #[serde(default)]
    pub no_outer_space: bool,
    /// Whether a name must not be between apostrophes, for an engine that takes them off who logs in: `'ann'` would be `ann`.
    #[serde(default)]
    pub no_outer_apostrophes: bool,
    /// Longest name where it becomes that of a file, in which each character but ASCII letters, digits and `_` takes five
    /// bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_stored_bytes: Option<usize>,
}

impl NameRules {
    /// Rules that bound the length alone, and reserve these names.
    pub fn new(max_bytes: usize, reserved: &[&str]) -> Self {
        let reserved = reserved.iter().map(|name| (*name).to_owned()).collect();
        Self { max_bytes, reserved, ..Self::default() }
    }

    /// Whether the name belongs to the engine or to the agent.
    pub fn is_reserved(&self, name: &str) -> bool {
        let same = |reserved: &str| reserved == name || self.ignore_case && reserved.eq_ignore_ascii_case(name);
        let begins = |prefix: &str| {
            name.get(..prefix.len()).is_some_and(|beginning| {
                beginning == prefix || self.ignore_case && beginning.eq_ignore_ascii_case(prefix)
            })
        };
        self.reserved.iter().any(|reserved| same(reserved))
            || self.reserved_prefixes.iter().any(|prefix| begins(prefix))
    }

    fn is_space(c: char) -> bool {
        matches!(c, ' ' | '\t'..='\r')
    }

    /// What a name takes as that of a file, bytes.
    fn stored_bytes(name: &str) -> usize {
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { 1 } else { 5 }).sum()
    }

    /// What is wrong with a name, to follow it in a sentence, such as `is reserved`. No engine takes an empty name or NUL.
    pub fn refusal(&self, name: &str) -> Option<String> {
        if name.is_empty() {
            Some("is empty".to_owned())
        } else if name.len() > self.max_bytes {
            Some(format!("is longer than {} bytes", self.max_bytes))
        } else if let Some(bad) = name.chars().find(|c| *c == '\0' || self.forbidden_characters.contains(*c)) {
            Some(format!("contains the character {bad:?}"))
        } else if let Some(bad) = name.chars().find(|c| self.basic_plane && c.len_utf8() > 3) {
            Some(format!("contains the character {bad:?}, which is outside of Unicode's basic plane"))
        } else if self.no_final_space && name.ends_with(' ') {
            Some("ends with a space".to_owned())
        } else if self.no_outer_space && name.trim_matches(Self::is_space) != name {
            Some("begins or ends with white space".to_owned())
        } else if self.no_outer_apostrophes && name.len() > 1 && name.starts_with('\'') && name.ends_with('\'') {
            Some("begins and ends with an apostrophe".to_owned())
        } else if self.max_stored_bytes.is_some_and(|max| Self::stored_bytes(name) > max) {
            Some("has too many characters that are no letters, digits or underscores".to_owned())
        } else {
            self.is_reserved(name).then(|| "is reserved".to_owned())
        }
    }
}

/// What an account of this engine is like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
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
    /// The greatest number of accounts that tenants can have, for engines that bound it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_accounts: Option<usize>,
}

/// How the engine's own client program is opened. `{address}`, `{port}`, `{tls_port}`, `{user}`, `{database}`,
/// `{password}` and `{ca_file}` are replaced in one pass; the password never stands in `args`. A name may be any text: it
/// stands only where the program takes it as it is, never where it would read a connection string, a URL or an option.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
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
    /// The package that brings the program, to be named where it is not installed: Debian's, or its maker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
}

impl Client {
    /// A program with its arguments and its environment.
    pub fn new(program: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        Self {
            program: program.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            unset: Vec::new(),
            package: None,
        }
    }
}

/// Who the datastore is: what is true of every version of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
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
    /// The client program, for engines that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Client>,
    /// Whether the engine speaks TLS. One that does not is for networks that are trusted, and knows no mode.
    #[serde(default = "yes")]
    pub tls: bool,
    /// Whether what is written is gone when the engine ends: nobody demands durability.
    #[serde(default)]
    pub volatile: bool,
    /// Whether the data lies on a volume, which an order then gives a size.
    pub volume: bool,
    /// How many hundredths of its host's memory data may take, for an engine that holds all of them in memory. What has no room
    /// in a flavor is then refused before a host of that flavor is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_memory_percent: Option<u64>,
}

fn yes() -> bool {
    true
}

impl Identity {
    /// A datastore with a volume, TLS and whatever else is usual: one port, no client program, rules that forbid nothing.
    pub fn new(name: &str, port: u16) -> Self {
        Self {
            name: name.to_owned(),
            flavour: name.to_owned(),
            port,
            tls_port: None,
            root_user: "root".to_owned(),
            databases: NameRules::default(),
            users: UserTraits::default(),
            client: None,
            tls: true,
            volatile: false,
            volume: true,
            data_memory_percent: None,
        }
    }

    /// How much of so much memory data may take, for an engine that holds all of them in memory.
    pub fn data_memory_mib(&self, memory_mib: u64) -> Option<u64> {
        self.data_memory_percent.map(|percent| memory_mib * percent / 100)
    }
}

/// A datastore. One that has neither accounts nor root is open: whoever reaches its port is in. Stateless; the agent's `main` lists them.
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
    /// Backups.
    fn backup(&self) -> Option<&dyn Backup> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_engine_would_trim_is_refused() {
        let mut rules = NameRules::new(32, &["root"]);
        assert_eq!(rules.refusal(" root"), None);
        rules.no_outer_space = true;
        for name in [" root", "root ", "\troot", "root\r\n", " "] {
            assert!(rules.refusal(name).is_some(), "{name:?}");
        }
        assert_eq!(rules.refusal("two words"), None);
        assert_eq!(rules.refusal("'ann'"), None);
        rules.no_outer_apostrophes = true;
        assert!(["''", "'ann'", "'root'"].iter().all(|name| rules.refusal(name).is_some()));
        assert!(["'", "'ann", "ann'", "an'n"].iter().all(|name| rules.refusal(name).is_none()));
    }
}
