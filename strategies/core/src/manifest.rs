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
}

impl Manifest {
    /// The manifest of an installation; `parameters` come from [`crate::Parameters::describe`] on a running server.
    pub fn derive(datastore: &dyn Datastore, installation: Installation, parameters: Vec<Parameter>) -> Self {
        let accessors = [
            ("databases", datastore.databases().is_some()),
            ("users", datastore.users().is_some()),
            ("root", datastore.root().is_some()),
            ("parameters", datastore.parameters().is_some()),
        ];
        let capabilities = accessors.into_iter().filter(|(_, has)| *has).map(|(name, _)| name.to_owned()).collect();
        Self { identity: datastore.identity(), installation, capabilities, volume: true, parameters }
    }
}
