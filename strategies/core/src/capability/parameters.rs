//! What can be set, asked of the engine itself.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::Value;

use crate::engine::Settings;
use crate::error::EngineError;
use crate::manifest::Parameter;
use crate::site::Site;

/// What became of a parameter that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Applied {
    /// The running server has it.
    Live,
    /// The running server has another value, and begins with this one. It may use another all the same: what it was started with
    /// and still says this of, the agent reports as refused.
    NeedsRestart,
    /// The server does not take it, in its own words.
    Refused(String),
}

/// Parameters of the engine: what its configuration files or its command line say.
#[async_trait]
pub trait Parameters: Send + Sync {
    /// Every parameter that a tenant may set, by name ascending, with the rules that the running server gives.
    async fn describe(&self, site: &Site) -> Result<Vec<Parameter>, EngineError>;
    /// The value in force of each of them, as the engine writes it.
    async fn values(&self, site: &Site) -> Result<Vec<(String, String)>, EngineError>;
    /// Whether the engine would start with these values, by name, which are all that are chosen. Asked before
    /// [`crate::Engine::configure`] writes them, whether the server runs or not. [`crate::Kind::Invalid`] names the
    /// parameter and gives the engine's words.
    async fn check(&self, site: &Site, values: &BTreeMap<String, Value>) -> Result<(), EngineError>;
    /// Makes the running server take up [`Settings::parameters`] after [`crate::Engine::configure`] wrote them, and gives
    /// what is not among them its default. Answers for each of them, by its name, what is true of the running server now,
    /// however often it is asked; and for each other that goes back to its default with the next start alone, that it does.
    async fn apply(&self, site: &Site, settings: &Settings) -> Result<BTreeMap<String, Applied>, EngineError>;
}
