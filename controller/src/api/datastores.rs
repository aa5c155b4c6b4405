//! Datastores and their versions.

use std::time::Duration;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::ApiState;
use super::flavors::FlavorsBody;
use super::http::answer::Accepted;
use super::http::auth::Authorized;
use super::http::body::{Json, Path, Query};
use super::http::fault::Fault;
use super::http::links::{self, Link};
use super::http::paging::Paging;
use crate::app::datastores::{Datastore, Version};
use crate::error::{Error, Result};
use crate::ids::{ProjectId, VersionId};

/// The id of a version in a path.
pub(super) fn version_id(text: &str) -> Result<VersionId> {
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

#[derive(Serialize, ToSchema)]
pub(super) struct DatastoresBody {
    datastores: Vec<DatastoreView>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct DatastoreBody {
    datastore: DatastoreView,
}

#[derive(Serialize, ToSchema)]
pub(super) struct VersionsBody {
    versions: Vec<VersionView>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct VersionBody {
    version: VersionView,
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
pub(super) struct OfDatastore {
    /// Name or id of the datastore.
    datastore: String,
}

#[derive(Deserialize, IntoParams)]
pub(super) struct OfVersion {
    /// Name or id of the datastore.
    pub(super) datastore: String,
    /// Name or id of the version.
    pub(super) version: String,
}

#[derive(Deserialize, IntoParams)]
pub(super) struct OfVersionId {
    /// The version.
    #[param(value_type = Uuid)]
    pub(super) id: String,
}

/// Longest time that an answer is held, seconds.
const LONGEST_WAIT: u64 = 60;

#[derive(Deserialize, IntoParams)]
pub(super) struct Wait {
    /// Seconds for which the answer may be held, 60 at most, until what is installed has been registered: a service that was
    /// started just now looks for it.
    #[param(maximum = 65535)]
    wait: Option<u16>,
}

/// List what can be ordered
///
/// In one page.
#[utoipa::path(get, path = "/datastores", tag = "datastores", operation_id = "list_datastores", params(Wait))]
pub(super) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    Query(query): Query<Wait>,
    paging: Paging,
) -> Result<Json<DatastoresBody>> {
    authorized.may("datastore:index")?;
    if let Some(wait) = query.wait {
        tokio::select! {
            () = state.app.await_registered(Duration::from_secs(u64::from(wait).min(LONGEST_WAIT))) => {}
            refused = authorized.refused() => return Err(refused),
        }
    }
    let view = View::of(&state, &authorized);
    let list = paging.rest(state.app.list_datastores(view.admin).await?, |datastore| datastore.id.to_string());
    Ok(Json(DatastoresBody { datastores: list.iter().map(|datastore| view.datastore(datastore)).collect() }))
}

/// Show a datastore
#[utoipa::path(get, path = "/datastores/{datastore}", tag = "datastores", operation_id = "show_datastore",
    params(OfDatastore), responses(Fault<404>))]
pub(super) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfDatastore>,
) -> Result<Json<DatastoreBody>> {
    authorized.may("datastore:show")?;
    let view = View::of(&state, &authorized);
    let datastore = state.app.get_datastore(view.admin, &of.datastore).await?;
    Ok(Json(DatastoreBody { datastore: view.datastore(&datastore) }))
}

/// Delete a datastore that has no versions
#[utoipa::path(delete, path = "/datastores/{datastore}", tag = "management", operation_id = "delete_datastore",
    params(OfDatastore), responses(Fault<404>))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfDatastore>,
) -> Result<Accepted> {
    authorized.may("datastore:delete")?;
    state.app.delete_datastore(&of.datastore).await?;
    Ok(Accepted(None))
}

/// List the versions of a datastore
///
/// In one page.
#[utoipa::path(get, path = "/datastores/{datastore}/versions", tag = "datastores", operation_id = "list_versions",
    params(OfDatastore), responses(Fault<404>))]
pub(super) async fn list_versions(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfDatastore>,
    paging: Paging,
) -> Result<Json<VersionsBody>> {
    authorized.may("datastore:version_index")?;
    let view = View::of(&state, &authorized);
    let datastore = state.app.get_datastore(view.admin, &of.datastore).await?;
    let versions = datastore.versions.iter().map(|version| view.version(version, false)).collect();
    Ok(Json(VersionsBody { versions: paging.rest(versions, |version| version.id.to_string()) }))
}

/// Show a version of a datastore
#[utoipa::path(get, path = "/datastores/{datastore}/versions/{version}", tag = "datastores",
    operation_id = "show_version", params(OfVersion), responses(Fault<404>))]
pub(super) async fn show_version(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfVersion>,
) -> Result<Json<VersionBody>> {
    authorized.may("datastore:version_show")?;
    let view = View::of(&state, &authorized);
    let (_, version) = state.app.get_version(view.admin, &of.datastore, &of.version).await?;
    Ok(Json(VersionBody { version: view.version(&version, false) }))
}

/// Show a version by its id
#[utoipa::path(get, path = "/datastores/versions/{id}", tag = "datastores", operation_id = "show_version_by_id",
    params(OfVersionId), responses(Fault<404>))]
pub(super) async fn show_version_by_id(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfVersionId>,
) -> Result<Json<VersionBody>> {
    authorized.may("datastore:version_show_by_uuid")?;
    let view = View::of(&state, &authorized);
    let (_, version) = state.app.get_version_by_id(view.admin, version_id(&of.id)?).await?;
    Ok(Json(VersionBody { version: view.version(&version, false) }))
}

/// List the flavors of a version
///
/// No flavor is bound to a version here.
#[utoipa::path(get, path = "/datastores/{datastore}/versions/{version}/flavors", tag = "datastores",
    operation_id = "list_flavors_of_version", params(OfVersion), responses(Fault<404>))]
pub(super) async fn list_flavors(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfVersion>,
    paging: Paging,
) -> Result<Json<FlavorsBody>> {
    authorized.may("datastore:list_associated_flavors")?;
    let view = View::of(&state, &authorized);
    state.app.get_version(view.admin, &of.datastore, &of.version).await?;
    Ok(Json(FlavorsBody::of(&view.base, view.project, state.app.list_flavors(), &paging)))
}
