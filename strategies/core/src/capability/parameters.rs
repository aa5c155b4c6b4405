//! What can be set, asked of the engine itself.

use async_trait::async_trait;

use crate::error::EngineError;
use crate::manifest::Parameter;
use crate::site::Site;

/// Parameters of the engine.
#[async_trait]
pub trait Parameters: Send + Sync {
    /// Every parameter that a tenant may set, by name ascending, with the rules that the running server gives.
    async fn describe(&self, site: &Site) -> Result<Vec<Parameter>, EngineError>;
    /// The value in force of each of them, as the engine writes it.
    async fn values(&self, site: &Site) -> Result<Vec<(String, String)>, EngineError>;
}
