//! Accounts of tenants. What they may enter is granted by [`super::Databases`].

use async_trait::async_trait;
use secrecy::SecretString;

use crate::error::EngineError;
use crate::site::Site;

/// Which account: a name, and the hosts it may come from where the engine's accounts have that.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Grantee {
    /// The account's name.
    pub name: String,
    /// The host pattern; `%` (any) for engines whose accounts have no hosts.
    pub host: String,
}

impl Grantee {
    /// That may come from anywhere.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), host: "%".to_owned() }
    }
}

/// An account as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct User {
    /// Which.
    pub id: Grantee,
    /// The databases it may enter, by name ascending; none where there are no databases by name.
    pub databases: Vec<String>,
}

impl User {
    /// One that may enter these databases.
    pub fn new(id: Grantee, databases: Vec<String>) -> Self {
        Self { id, databases }
    }
}

/// An account to be made.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// Which.
    pub id: Grantee,
    /// Its password; never sent to the engine in clear text where the engine takes a verifier.
    pub password: SecretString,
    /// The databases it may enter; they exist, and there are none where there are no databases by name.
    pub databases: Vec<String>,
}

/// What is to become of an account; `None` leaves a thing as it is.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    /// A new name.
    pub name: Option<String>,
    /// A new host pattern.
    pub host: Option<String>,
    /// A new password.
    pub password: Option<SecretString>,
}

/// Accounts by name.
#[async_trait]
pub trait Users: Send + Sync {
    /// All but the reserved ones, by name and host ascending in byte order.
    async fn list(&self, site: &Site) -> Result<Vec<User>, EngineError>;
    /// One of them, or `None`.
    async fn get(&self, site: &Site, id: &Grantee) -> Result<Option<User>, EngineError>;
    /// Makes it with its grants; one that exists gets the password and the grants.
    async fn create(&self, site: &Site, user: &NewUser) -> Result<(), EngineError>;
    /// Removes it. What it owned goes to the owner of the database it is in.
    async fn delete(&self, site: &Site, id: &Grantee) -> Result<(), EngineError>;
    /// Renames it or changes its password or hosts. When `id` is not there but the changed name is, the change has
    /// happened already and only the password is set.
    async fn change(&self, site: &Site, id: &Grantee, change: &UserChange) -> Result<(), EngineError>;
}
