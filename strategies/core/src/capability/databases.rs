//! Databases of an engine that has several by name, and who may enter them.

use async_trait::async_trait;

use super::users::Grantee;
use crate::error::EngineError;
use crate::manifest::CharacterSet;
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

impl Database {
    /// With the engine's default character set and collation.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), character_set: None, collation: None }
    }
}

/// Databases by name. An engine that has them has accounts too.
#[async_trait]
pub trait Databases: Send + Sync {
    /// What databases can be made with, as the running server knows it, its default first. An order that names another
    /// combination is refused before it is accepted; an empty list leaves that to [`Databases::create`].
    async fn character_sets(&self, site: &Site) -> Result<Vec<CharacterSet>, EngineError>;
    /// All but the reserved ones, by name ascending in byte order.
    async fn list(&self, site: &Site) -> Result<Vec<Database>, EngineError>;
    /// Makes a database that no other account may enter until it is granted.
    async fn create(&self, site: &Site, database: &Database) -> Result<(), EngineError>;
    /// Removes it with all its contents, cutting the sessions that are in it.
    async fn delete(&self, site: &Site, name: &str) -> Result<(), EngineError>;
    /// Lets an account work in the databases: every object that exists and that will be made there.
    async fn grant(&self, site: &Site, user: &Grantee, databases: &[String]) -> Result<(), EngineError>;
    /// Takes that away again.
    async fn revoke(&self, site: &Site, user: &Grantee, database: &str) -> Result<(), EngineError>;
}
