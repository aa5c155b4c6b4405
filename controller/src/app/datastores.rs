//! Datastores and their versions.
//!
//! SKELETON of the interface between `api` and `app`; bodies follow.

use trove_strategy::Manifest;

use super::App;
use crate::error::Result;
use crate::ids::{DatastoreId, VersionId};

/// A version of a datastore.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its id.
    pub id: VersionId,
    /// Its datastore.
    pub datastore_id: DatastoreId,
    /// Its name, such as `15`.
    pub name: String,
    /// Its number, such as `15.18`.
    pub number: String,
    /// Whether instances of it can be ordered.
    pub active: bool,
    /// What it can do.
    pub manifest: Manifest,
}

/// A datastore with its versions.
#[derive(Clone, Debug)]
pub struct Datastore {
    /// Its id.
    pub id: DatastoreId,
    /// Its name.
    pub name: String,
    /// The version that is meant when none is named.
    pub default_version: Option<VersionId>,
    /// All of them for an admin, the active ones otherwise.
    pub versions: Vec<Version>,
}

#[allow(unused_variables)]
impl App {
    /// All of them; inactive versions only when `admin`. One query.
    pub async fn list_datastores(&self, admin: bool) -> Result<Vec<Datastore>> {
        todo!()
    }
    /// By name or id. Errors: 404.
    pub async fn get_datastore(&self, admin: bool, name_or_id: &str) -> Result<Datastore> {
        todo!()
    }
    /// A version by name or id of a datastore by name or id. Errors: 404 datastore; 400 version (as upstream).
    pub async fn get_version(&self, admin: bool, datastore: &str, version: &str) -> Result<(Datastore, Version)> {
        todo!()
    }
    /// A version by id. Errors: 404.
    pub async fn get_version_by_id(&self, admin: bool, id: VersionId) -> Result<(Datastore, Version)> {
        todo!()
    }
}
