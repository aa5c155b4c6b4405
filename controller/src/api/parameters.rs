//! What can be set in an engine, as its manifest says.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use trove_strategy::{Parameter, ParameterType};

use super::ApiState;
use super::auth::{Administrator, Authorized};
use super::body::Path;
use super::datastores::version_id;
use crate::app::datastores::Version;
use crate::error::Result;

/// As users see it: Trove's names, and what else the engine says. `lowest` and `highest` are the names of the bounds.
fn view(version: &Version, parameter: &Parameter, lowest: &str, highest: &str) -> Value {
    let kind = match parameter.kind {
        ParameterType::Boolean => "boolean",
        ParameterType::Integer => "integer",
        ParameterType::Float => "float",
        ParameterType::String => "string",
    };
    let mut view = json!({
        "name": parameter.name, "datastore_version_id": version.id, "type": kind,
        "restart_required": parameter.restart_required});
    for (name, value) in [(lowest, &parameter.min), (highest, &parameter.max)] {
        if let Some(value) = value {
            view[name] = json!(value);
        }
    }
    if !parameter.allowed.is_empty() {
        view["allowed_values"] = json!(parameter.allowed);
    }
    for (name, value) in [("default", &parameter.default), ("unit", &parameter.unit)] {
        if let Some(value) = value {
            view[name] = json!(value);
        }
    }
    view
}

async fn list_view(state: &ApiState, version: &Version, lowest: &str, highest: &str) -> Result<Json<Value>> {
    let all = state.app.parameters(version).await?;
    let all: Vec<Value> = all.iter().map(|parameter| view(version, parameter, lowest, highest)).collect();
    Ok(Json(json!({"configuration-parameters": all})))
}

/// `GET /datastores/{datastore}/versions/{version}/parameters`.
pub(super) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, datastore, version)): Path<(String, String, String)>,
) -> Result<Json<Value>> {
    authorized.may("configuration-parameter:index")?;
    let (_, version) = state.app.get_version(authorized.caller.is_admin(), &datastore, &version).await?;
    list_view(&state, &version, "min", "max").await
}

/// `GET /datastores/{datastore}/versions/{version}/parameters/{name}`: not wrapped.
pub(super) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, datastore, version, name)): Path<(String, String, String, String)>,
) -> Result<Json<Value>> {
    authorized.may("configuration-parameter:show")?;
    let (_, version) = state.app.get_version(authorized.caller.is_admin(), &datastore, &version).await?;
    Ok(Json(view(&version, &state.app.parameter(&version, &name).await?, "min", "max")))
}

/// `GET /datastores/versions/{id}/parameters`.
pub(super) async fn list_by_id(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>> {
    authorized.may("configuration-parameter:index_by_version")?;
    let (_, version) = state.app.get_version_by_id(authorized.caller.is_admin(), version_id(&id)?).await?;
    list_view(&state, &version, "min", "max").await
}

/// `GET /datastores/versions/{id}/parameters/{name}`: not wrapped.
pub(super) async fn show_by_id(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id, name)): Path<(String, String, String)>,
) -> Result<Json<Value>> {
    authorized.may("configuration-parameter:show_by_version")?;
    let (_, version) = state.app.get_version_by_id(authorized.caller.is_admin(), version_id(&id)?).await?;
    Ok(Json(view(&version, &state.app.parameter(&version, &name).await?, "min", "max")))
}

/// `GET /mgmt/datastores/versions/{id}/parameters`: the bounds have other names there.
pub(super) async fn list_managed(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>> {
    let (_, version) = state.app.get_version_by_id(true, version_id(&id)?).await?;
    list_view(&state, &version, "min_size", "max_size").await
}

/// `GET /mgmt/datastores/versions/{id}/parameters/{name}`: not wrapped.
pub(super) async fn show_managed(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path((_, id, name)): Path<(String, String, String)>,
) -> Result<Json<Value>> {
    let (_, version) = state.app.get_version_by_id(true, version_id(&id)?).await?;
    Ok(Json(view(&version, &state.app.parameter(&version, &name).await?, "min_size", "max_size")))
}
