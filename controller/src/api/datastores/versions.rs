//! Lists and shows the versions of a datastore.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{OfDatastore, OfVersion, OfVersionId, VersionView, View, version_id};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::http::paging::Paging;
use crate::error::Result;

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct VersionsBody {
    versions: Vec<VersionView>,
}

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct VersionBody {
    version: VersionView,
}

/// List the versions of a datastore
///
/// In one page.
#[utoipa::path(get, path = "/datastores/{datastore}/versions", tag = "datastores", operation_id = "list_versions",
    params(OfDatastore), responses(Fault<404>))]
pub(in crate::api) async fn list(
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
pub(in crate::api) async fn show(
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
pub(in crate::api) async fn show_by_id(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfVersionId>,
) -> Result<Json<VersionBody>> {
    authorized.may("datastore:version_show_by_uuid")?;
    let view = View::of(&state, &authorized);
    let (_, version) = state.app.get_version_by_id(view.admin, version_id(&of.id)?).await?;
    Ok(Json(VersionBody { version: view.version(&version, false) }))
}
