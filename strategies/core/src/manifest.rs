//! What a datastore announces: derived from its accessors and from the engine that is installed, never typed twice.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::datastore::{Datastore, Identity};
use crate::site::Installation;

/// The version of the interface between strategies, agents and controllers: of what a manifest and a Hello say, and of what
/// an assignment means. It grows when an older controller would misunderstand a newer agent.
pub const INTERFACE: u32 = 1;

/// Whether this program knows a version of the interface. Agents from before it was said, which say 0, are known.
///
/// # Errors
/// It does not.
pub fn check_interface(version: u32) -> Result<(), ManifestError> {
    if version <= INTERFACE { Ok(()) } else { Err(ManifestError::Interface(version)) }
}

/// Why a manifest is not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is of a newer agent.
    #[error(
        "version {0} of the strategy interface is not known: this program knows version {INTERFACE} and older ones"
    )]
    Interface(u32),
    /// It is no manifest.
    #[error("this is no manifest: {0}")]
    Json(#[from] serde_json::Error),
}

/// What a datastore can do besides being run: one trait each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Capability {
    /// Databases by name.
    Databases,
    /// Accounts.
    Users,
    /// The all-powerful account.
    Root,
    /// Parameters.
    Parameters,
    /// Backups.
    Backup,
    /// Backups of what has changed since another one.
    Incremental,
    /// The state of any moment: backups and the log of writes.
    #[serde(rename = "point_in_time")]
    PointInTime,
}

impl fmt::Display for Capability {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Databases => "databases",
            Self::Users => "users",
            Self::Root => "root",
            Self::Parameters => "parameters",
            Self::Backup => "backup",
            Self::Incremental => "incremental",
            Self::PointInTime => "point_in_time",
        })
    }
}

/// The type of a parameter's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ParameterType {
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer,
    /// A number.
    Float,
    /// A text; one of `allowed` when that is not empty.
    String,
}

/// One parameter, as the engine that is installed describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Parameter {
    /// The engine's own name.
    pub name: String,
    /// The type of its value.
    #[serde(rename = "type")]
    pub kind: ParameterType,
    /// The engine's own unit of a number, such as `8kB` or `ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Smallest number, as the engine writes it: bounds of 64 bits stay whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Number>,
    /// Greatest number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Number>,
    /// The only texts that are allowed, when there are such.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
    /// The engine's default, as it writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Whether a change acts only after a restart.
    pub restart_required: bool,
}

impl Parameter {
    /// One that takes any value of the type, and can be changed while the engine runs.
    pub fn new(name: impl Into<String>, kind: ParameterType) -> Self {
        Self {
            name: name.into(),
            kind,
            unit: None,
            min: None,
            max: None,
            allowed: Vec::new(),
            default: None,
            restart_required: false,
        }
    }
}

/// A character set that databases can have, with the collations that fit it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CharacterSet {
    /// The engine's own name.
    pub name: String,
    /// The collation of a database that names this character set and no collation.
    pub default_collation: String,
    /// Every collation that fits, by the engine's own names.
    pub collations: Vec<String>,
}

impl CharacterSet {
    /// One with a single collation, which others may be added to.
    pub fn new(name: impl Into<String>, collation: impl Into<String>) -> Self {
        let default_collation = collation.into();
        Self { name: name.into(), collations: vec![default_collation.clone()], default_collation }
    }

    /// The engine's name of the collation that is meant, if it fits this character set.
    pub fn collation(&self, meant: &str) -> Option<&str> {
        self.collations.iter().map(String::as_str).find(|name| same_locale(name, meant))
    }
}

/// Engines and the C library write the same locale as `C.UTF-8` and `c.utf8`, the same character set as `LATIN1` and
/// `latin-1`.
fn same_locale(name: &str, other: &str) -> bool {
    let plain = |text: &str| -> String {
        text.chars().filter(|c| !matches!(c, '-' | '_')).map(|c| c.to_ascii_lowercase()).collect()
    };
    plain(name) == plain(other)
}

/// The character set of a list that is meant.
pub fn character_set<'a>(all: &'a [CharacterSet], meant: &str) -> Option<&'a CharacterSet> {
    all.iter().find(|set| same_locale(&set.name, meant))
}

/// What one installed version of a datastore is and can do. Printed by `trove-agent manifest <datastore>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Who it is.
    #[serde(flatten)]
    pub identity: Identity,
    /// The version that is installed.
    pub installation: Installation,
    /// See [`INTERFACE`].
    #[serde(default)]
    pub interface: u32,
    /// The capabilities, by the names of their accessors.
    pub capabilities: Vec<Capability>,
    /// What can be set.
    pub parameters: Vec<Parameter>,
    /// What databases can be made with, the engine's default first; empty where that is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub character_sets: Vec<CharacterSet>,
}

/// What only a running server can tell of itself.
#[derive(Clone, Debug, Default)]
pub struct Described {
    /// From [`crate::Parameters::describe`].
    pub parameters: Vec<Parameter>,
    /// From [`crate::Databases::character_sets`].
    pub character_sets: Vec<CharacterSet>,
}

impl Manifest {
    /// The manifest of an installation.
    pub fn derive(datastore: &dyn Datastore, installation: Installation, described: Described) -> Self {
        let Described { parameters, character_sets } = described;
        let accessors = [
            (Capability::Databases, datastore.databases().is_some()),
            (Capability::Users, datastore.users().is_some()),
            (Capability::Root, datastore.root().is_some()),
            (Capability::Parameters, datastore.parameters().is_some()),
            (Capability::Backup, datastore.backup().is_some()),
            (Capability::Incremental, datastore.backup().is_some_and(|backup| backup.incremental().is_some())),
            (Capability::PointInTime, datastore.backup().is_some_and(|backup| backup.logs().is_some())),
        ];
        let capabilities = accessors.into_iter().filter(|(_, has)| *has).map(|(capability, _)| capability).collect();
        let identity = datastore.identity();
        Self { identity, installation, interface: INTERFACE, capabilities, parameters, character_sets }
    }

    /// Reads what an agent program printed.
    ///
    /// # Errors
    /// It is of an interface that is not known, or no manifest.
    pub fn from_json(text: &str) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Version {
            #[serde(default)]
            interface: u32,
        }
        // The version first: what is new cannot be read otherwise.
        check_interface(serde_json::from_str::<Version>(text)?.interface)?;
        Ok(serde_json::from_str(text)?)
    }

    /// Whether it can do this.
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }

    /// Whether it has no accounts at all, so that whoever reaches its port is in.
    pub fn is_open(&self) -> bool {
        !self.has(Capability::Users) && !self.has(Capability::Root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_of_a_newer_interface_is_refused_by_a_sentence() {
        let newer = format!("{{\"interface\": {}, \"capabilities\": [\"flight\"]}}", INTERFACE + 1);
        let said = Manifest::from_json(&newer).unwrap_err().to_string();
        assert!(said.starts_with("version 2 of the strategy interface is not known"), "{said}");
        assert!(matches!(Manifest::from_json("{}"), Err(ManifestError::Json(_))));
        assert!(check_interface(0).is_ok() && check_interface(INTERFACE).is_ok());
    }

    #[test]
    fn locales_are_known_however_they_are_written() {
        let collations = ["C.UTF-8", "en_US.utf8"].map(str::to_owned).to_vec();
        let all = [CharacterSet { name: "UTF8".to_owned(), default_collation: "C.UTF-8".to_owned(), collations }];
        let set = character_set(&all, "utf-8").unwrap();
        assert_eq!(set.collation("c.utf8"), Some("C.UTF-8"));
        assert_eq!(set.collation("en_US.UTF-8"), Some("en_US.utf8"));
        assert_eq!(set.collation("en_GB.UTF-8"), None);
        assert!(character_set(&all, "latin1").is_none());
    }
}
