//! The all-powerful account that a tenant may ask for.

use async_trait::async_trait;
use secrecy::SecretString;

use crate::error::EngineError;
use crate::site::Site;

/// The account named in [`crate::Identity::root_user`].
#[async_trait]
pub trait Root: Send + Sync {
    /// Whether it exists and can log in.
    async fn is_enabled(&self, site: &Site) -> Result<bool, EngineError>;
    /// Makes it, or gives it this password.
    async fn enable(&self, site: &Site, password: &SecretString) -> Result<(), EngineError>;
    /// Shuts it out and cuts its sessions; what it owns stays.
    async fn disable(&self, site: &Site) -> Result<(), EngineError>;
}
