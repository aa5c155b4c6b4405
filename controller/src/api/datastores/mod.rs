//! Datastores and their versions.

pub(super) mod delete;
pub(super) mod list;
pub(super) mod list_flavors;
pub(super) mod show;
pub(super) mod versions;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::ApiState;
use super::http::auth::Authorized;
use super::http::links::{self, Link};
use crate::app::datastores::{Datastore, Version};
use crate::error::{Error, Result};
use crate::ids::{ProjectId, VersionId};

/// The id of a version in a path.
pub(in crate::api) fn version_id(text: &str) -> Result<VersionId> {
    text.parse().map_err(|_| Error::NotFound("The datastore version cannot be found.".to_owned()))
}

/// A version of a datastore.
#[derive(Serialize, ToSchema)]
struct VersionView {
    id: Uuid,
    name: String,
    /// The whole number of the engine.
    version: String,
    links: Vec<Link>,
    /// The id of its datastore; not where it stands inside of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    datastore: Option<Uuid>,
    /// For administrators, as what follows; the rest of it belongs to images, which there are none of.
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packages: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_tags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registry_ext: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repl_strategy: Option<&'static str>,
}

/// A datastore with its versions.
#[derive(Serialize, ToSchema)]
struct DatastoreView {
    id: Uuid,
    name: String,
    versions: Vec<VersionView>,
    links: Vec<Link>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_version: Option<Uuid>,
}

/// What views are drawn with.
struct View<'a> {
    base: String,
    project: &'a ProjectId,
    admin: bool,
}

impl<'a> View<'a> {
    fn of(state: &ApiState, authorized: &'a Authorized) -> Self {
        let (project, admin) = (&authorized.caller.project, authorized.caller.is_admin());
        Self { base: state.app.config.public_url(), project, admin }
    }

    fn version(&self, version: &Version, nested: bool) -> VersionView {
        let empty = self.admin.then_some("");
        VersionView {
            id: version.id.0,
            name: version.name.clone(),
            version: version.number.clone(),
            links: links::links(&self.base, self.project, "datastores/versions", &version.id.to_string()),
            datastore: (!nested).then_some(version.datastore_id.0),
            active: self.admin.then_some(version.active),
            packages: empty,
            image: empty,
            image_tags: self.admin.then(Vec::new),
            registry_ext: empty,
            repl_strategy: empty,
        }
    }

    fn datastore(&self, datastore: &Datastore) -> DatastoreView {
        DatastoreView {
            id: datastore.id.0,
            name: datastore.name.clone(),
            versions: datastore.versions.iter().map(|version| self.version(version, true)).collect(),
            links: links::links(&self.base, self.project, "datastores", &datastore.id.to_string()),
            default_version: datastore.default_version.map(|id| id.0),
        }
    }
}

#[derive(Deserialize, IntoParams)]
pub(in crate::api) struct OfDatastore {
    /// Name or id of the datastore.
    datastore: String,
}

#[derive(Deserialize, IntoParams)]
pub(in crate::api) struct OfVersion {
    /// Name or id of the datastore.
    pub(in crate::api) datastore: String,
    /// Name or id of the version.
    pub(in crate::api) version: String,
}

#[derive(Deserialize, IntoParams)]
pub(in crate::api) struct OfVersionId {
    /// The version.
    #[param(value_type = Uuid)]
    pub(in crate::api) id: String,
}
