//! Datastores and their versions.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Authorized;
use super::body::Path;
use super::fault::accepted;
use super::{flavors, links};
use crate::app::datastores::{Datastore, Version};
use crate::error::{Error, Result};
use crate::ids::{ProjectId, VersionId};

/// The id of a version in a path.
pub(super) fn version_id(text: &str) -> Result<VersionId> {
    text.parse().map_err(|_| Error::NotFound("The datastore version cannot be found.".to_owned()))
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

    fn version(&self, version: &Version, nested: bool) -> Value {
        let path = format!("datastores/versions/{}", version.id);
        let mut view = json!({
            "id": version.id, "name": version.name, "version": version.number,
            "links": links::links(&self.base, self.project, &path)});
        if !nested {
            view["datastore"] = json!(version.datastore_id);
        }
        if self.admin {
            view["active"] = json!(version.active);
            for name in ["packages", "image", "registry_ext", "repl_strategy"] {
                view[name] = json!("");
            }
            view["image_tags"] = json!([]);
        }
        view
    }

    fn datastore(&self, datastore: &Datastore) -> Value {
        let versions: Vec<Value> = datastore.versions.iter().map(|version| self.version(version, true)).collect();
        let path = format!("datastores/{}", datastore.id);
        let mut view = json!({
            "id": datastore.id, "name": datastore.name, "versions": versions,
            "links": links::links(&self.base, self.project, &path)});
        if let Some(default) = datastore.default_version {
            view["default_version"] = json!(default);
        }
        view
    }
}

/// `GET /datastores`.
pub(super) async fn list(State(state): State<ApiState>, authorized: Authorized) -> Result<Json<Value>> {
    authorized.may("datastore:index")?;
    let view = View::of(&state, &authorized);
    let list = state.app.list_datastores(view.admin).await?;
    let list: Vec<Value> = list.iter().map(|datastore| view.datastore(datastore)).collect();
    Ok(Json(json!({"datastores": list})))
}

/// `GET /datastores/{datastore}`: by name or id.
pub(super) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, name)): Path<(String, String)>,
) -> Result<Json<Value>> {
    authorized.may("datastore:show")?;
    let view = View::of(&state, &authorized);
    let datastore = state.app.get_datastore(view.admin, &name).await?;
    Ok(Json(json!({"datastore": view.datastore(&datastore)})))
}

/// `DELETE /datastores/{datastore}`: by name or id.
pub(super) async fn delete(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, name)): Path<(String, String)>,
) -> Result<Response> {
    authorized.may("datastore:delete")?;
    state.app.delete_datastore(&name).await?;
    Ok(accepted())
}

/// `GET /datastores/{datastore}/versions`.
pub(super) async fn list_versions(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, name)): Path<(String, String)>,
) -> Result<Json<Value>> {
    authorized.may("datastore:version_index")?;
    let view = View::of(&state, &authorized);
    let datastore = state.app.get_datastore(view.admin, &name).await?;
    let versions: Vec<Value> = datastore.versions.iter().map(|version| view.version(version, false)).collect();
    Ok(Json(json!({"versions": versions})))
}

/// `GET /datastores/{datastore}/versions/{version}`.
pub(super) async fn show_version(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, datastore, version)): Path<(String, String, String)>,
) -> Result<Json<Value>> {
    authorized.may("datastore:version_show")?;
    let view = View::of(&state, &authorized);
    let (_, version) = state.app.get_version(view.admin, &datastore, &version).await?;
    Ok(Json(json!({"version": view.version(&version, false)})))
}

/// `GET /datastores/versions/{id}`.
pub(super) async fn show_version_by_id(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>> {
    authorized.may("datastore:version_show_by_uuid")?;
    let view = View::of(&state, &authorized);
    let (_, version) = state.app.get_version_by_id(view.admin, version_id(&id)?).await?;
    Ok(Json(json!({"version": view.version(&version, false)})))
}

/// `GET /datastores/{datastore}/versions/{version}/flavors`: no flavor is bound to a version here.
pub(super) async fn list_flavors(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, datastore, version)): Path<(String, String, String)>,
) -> Result<Json<Value>> {
    authorized.may("datastore:list_associated_flavors")?;
    let view = View::of(&state, &authorized);
    state.app.get_version(view.admin, &datastore, &version).await?;
    let list = state.app.list_flavors().iter();
    let list: Vec<Value> = list.map(|flavor| flavors::view(&view.base, view.project, flavor)).collect();
    Ok(Json(json!({"flavors": list})))
}
