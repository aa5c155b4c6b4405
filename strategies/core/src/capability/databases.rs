//! Databases of an engine that has several by name.

use async_trait::async_trait;

use crate::error::EngineError;
use crate::site::Site;

/// A database, as it is ordered and listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// The engine's name of a character set, or `None` for the engine's default.
    pub character_set: Option<String>,
    /// The engine's name of a collation, or `None` for the engine's default.
    pub collation: Option<String>,
}

/// Databases by name.
#[async_trait]
pub trait Databases: Send + Sync {
    /// All but the reserved ones, by name ascending in byte order.
    async fn list(&self, site: &Site) -> Result<Vec<Database>, EngineError>;
    /// Makes a database that no other account may enter until it is granted.
    async fn create(&self, site: &Site, database: &Database) -> Result<(), EngineError>;
    /// Removes it with all its contents, cutting the sessions that are in it.
    async fn delete(&self, site: &Site, name: &str) -> Result<(), EngineError>;
}
