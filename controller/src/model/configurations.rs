//! Configuration groups: values of parameters under a name, which instances are given.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use time::OffsetDateTime;

use crate::ids::{ConfigurationId, DatastoreId, ProjectId, VersionId};

/// Values by the engine's own names of the parameters, each a JSON scalar.
pub type Values = BTreeMap<String, Value>;

/// A configuration group.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    pub id: ConfigurationId,
    pub project: ProjectId,
    pub name: String,
    /// Text by the tenant.
    pub description: Option<String>,
    /// Datastore version of the instances to which it can be attached.
    pub version_id: VersionId,
    pub version: String,
    pub version_number: String,
    pub datastore_id: DatastoreId,
    pub datastore: String,
    /// Values of parameters.
    pub values: Values,
    /// Number of instances to which it is attached.
    pub instances: u64,
    pub created: OffsetDateTime,
    pub updated: OffsetDateTime,
}

/// The group that is attached to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedConfiguration {
    pub id: ConfigurationId,
    pub name: String,
}

/// State of a parameter's value in the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterState {
    /// The running engine uses it.
    Live,
    /// The engine will use it from its next start on.
    NeedsRestart,
    /// The engine has refused it.
    Refused,
}

impl ParameterState {
    /// The text by which it is stored and shown.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::NeedsRestart => "needs_restart",
            Self::Refused => "refused",
        }
    }
}

/// State of a parameter's value in the engine, with a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterResult {
    pub state: ParameterState,
    /// The engine's message, possibly empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Whether any value takes effect only with the next start of the engine.
pub fn needs_restart(results: &BTreeMap<String, ParameterResult>) -> bool {
    results.values().any(|result| result.state == ParameterState::NeedsRestart)
}

/// What an administrator says of a parameter beside the manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterRule {
    /// The engine's own name.
    pub name: String,
    /// Whether nobody may set it.
    pub hidden: bool,
    /// Whether a change is shown as one that acts after a restart.
    pub restart_required: bool,
    /// Smallest number.
    pub min: Option<Number>,
    /// Greatest number.
    pub max: Option<Number>,
}
