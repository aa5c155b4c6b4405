//! Configuration groups: values of parameters under a name, which instances are given.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use crate::ids::{ConfigurationId, DatastoreId, ProjectId, VersionId};

/// Values by the engine's own names of the parameters, each a JSON scalar.
pub type Values = BTreeMap<String, Value>;

/// A configuration group; read by one query.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// Its id.
    pub id: ConfigurationId,
    /// Whose it is.
    pub project: ProjectId,
    /// Not unique.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The version whose instances can have it.
    pub version_id: VersionId,
    /// The version's name.
    pub version: String,
    /// The version's number.
    pub version_number: String,
    /// Its datastore.
    pub datastore_id: DatastoreId,
    /// The datastore's name.
    pub datastore: String,
    /// What it sets.
    pub values: Values,
    /// How many instances have it.
    pub instances: u64,
    /// When it was made.
    pub created: OffsetDateTime,
    /// When it last changed.
    pub updated: OffsetDateTime,
}

/// The group of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedConfiguration {
    /// Its id.
    pub id: ConfigurationId,
    /// Its name.
    pub name: String,
}

/// What became of the value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterState {
    /// The running engine has it.
    Live,
    /// The engine has it from its next start on.
    NeedsRestart,
    /// The engine does not take it.
    Refused,
}

impl ParameterState {
    /// The tag under which it is stored and shown.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::NeedsRestart => "needs_restart",
            Self::Refused => "refused",
        }
    }
}

/// What became of the value of a parameter, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterResult {
    /// What became of it.
    pub state: ParameterState,
    /// The engine's words, where it said something.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Whether the next start of the engine changes the value of a parameter.
pub fn needs_restart(results: &BTreeMap<String, ParameterResult>) -> bool {
    results.values().any(|result| result.state == ParameterState::NeedsRestart)
}
