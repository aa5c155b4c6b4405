//! What a datastore announces: derived from its accessors and from the engine that is installed, never typed twice.

use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::datastore::{Datastore, Identity};
use crate::site::Installation;

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

/// A character set that databases can have, with the collations that fit it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CharacterSet {
    /// The engine's own name.
    pub name: String,
    /// The collation of a database that names this character set and no collation.
    pub default_collation: String,
    /// Every collation that fits, by the engine's own names.
    pub collations: Vec<String>,
}

impl CharacterSet {
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
    /// The capabilities, by the names of their accessors: `databases`, `users`, `root`, `parameters`.
    pub capabilities: Vec<String>,
    /// Whether the data lies on a volume.
    pub volume: bool,
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
            ("databases", datastore.databases().is_some()),
            ("users", datastore.users().is_some()),
            ("root", datastore.root().is_some()),
            ("parameters", datastore.parameters().is_some()),
        ];
        let capabilities = accessors.into_iter().filter(|(_, has)| *has).map(|(name, _)| name.to_owned()).collect();
        Self { identity: datastore.identity(), installation, capabilities, volume: true, parameters, character_sets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
