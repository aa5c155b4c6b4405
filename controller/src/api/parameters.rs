//! What can be set in an engine, as its manifest says.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Number;
use trove_strategy::{Parameter, ParameterType};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::ApiState;
use super::datastores::{OfVersion, OfVersionId, version_id};
use super::http::auth::{Administrator, Authorized};
use super::http::body::{Json, Path};
use super::http::fault::Fault;
use crate::app::datastores::Version;
use crate::error::Result;

/// What can be set: Trove's names, and what else the engine says.
#[derive(Serialize, ToSchema)]
pub(super) struct ParameterView {
    name: String,
    datastore_version_id: Uuid,
    /// `boolean`, `integer`, `float` or `string`.
    r#type: &'static str,
    restart_required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    min: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    max: Option<Number>,
    /// `min`, in the management API.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    min_size: Option<Number>,
    /// `max`, in the management API.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    max_size: Option<Number>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    allowed_values: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
}

impl ParameterView {
    fn of(version: &Version, parameter: &Parameter) -> Self {
        Self {
            name: parameter.name.clone(),
            datastore_version_id: version.id.0,
            r#type: match parameter.kind {
                ParameterType::Boolean => "boolean",
                ParameterType::Integer => "integer",
                ParameterType::Float => "float",
                ParameterType::String => "string",
            },
            restart_required: parameter.restart_required,
            min: parameter.min.clone(),
            max: parameter.max.clone(),
            min_size: None,
            max_size: None,
            allowed_values: parameter.allowed.clone(),
            default: parameter.default.clone(),
            unit: parameter.unit.clone(),
        }
    }

    /// The bounds have other names in the management API.
    pub(super) fn managed(version: &Version, parameter: &Parameter) -> Self {
        let mut view = Self::of(version, parameter);
        (view.min_size, view.max_size) = (view.min.take(), view.max.take());
        view
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct ParametersBody {
    #[serde(rename = "configuration-parameters")]
    parameters: Vec<ParameterView>,
}

impl ParametersBody {
    async fn of(
        state: &ApiState,
        version: &Version,
        view: fn(&Version, &Parameter) -> ParameterView,
    ) -> Result<Json<Self>> {
        let all = state.app.parameters(version).await?;
        Ok(Json(Self { parameters: all.iter().map(|parameter| view(version, parameter)).collect() }))
    }
}

#[derive(Deserialize, IntoParams)]
pub(super) struct OfParameter {
    /// Name or id of the datastore.
    datastore: String,
    /// Name or id of the version.
    version: String,
    /// The parameter.
    name: String,
}

#[derive(Deserialize, IntoParams)]
pub(super) struct OfParameterById {
    /// The version.
    #[param(value_type = Uuid)]
    pub(super) id: String,
    /// The parameter.
    pub(super) name: String,
}

/// List what can be set in a version
#[utoipa::path(get, path = "/datastores/{datastore}/versions/{version}/parameters", tag = "datastores",
    operation_id = "list_parameters", params(OfVersion), responses(Fault<404>))]
pub(super) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfVersion>,
) -> Result<Json<ParametersBody>> {
    authorized.may("configuration-parameter:index")?;
    let (_, version) = state.app.get_version(authorized.caller.is_admin(), &of.datastore, &of.version).await?;
    ParametersBody::of(&state, &version, ParameterView::of).await
}

/// Show a parameter of a version
#[utoipa::path(get, path = "/datastores/{datastore}/versions/{version}/parameters/{name}", tag = "datastores",
    operation_id = "show_parameter", params(OfParameter), responses(Fault<404>))]
pub(super) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfParameter>,
) -> Result<Json<ParameterView>> {
    authorized.may("configuration-parameter:show")?;
    let (_, version) = state.app.get_version(authorized.caller.is_admin(), &of.datastore, &of.version).await?;
    Ok(Json(ParameterView::of(&version, &state.app.parameter(&version, &of.name).await?)))
}

/// List what can be set in a version, by its id
#[utoipa::path(get, path = "/datastores/versions/{id}/parameters", tag = "datastores",
    operation_id = "list_parameters_by_id", params(OfVersionId), responses(Fault<404>))]
pub(super) async fn list_by_id(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfVersionId>,
) -> Result<Json<ParametersBody>> {
    authorized.may("configuration-parameter:index_by_version")?;
    let (_, version) = state.app.get_version_by_id(authorized.caller.is_admin(), version_id(&of.id)?).await?;
    ParametersBody::of(&state, &version, ParameterView::of).await
}

/// Show a parameter of a version, by its id
#[utoipa::path(get, path = "/datastores/versions/{id}/parameters/{name}", tag = "datastores",
    operation_id = "show_parameter_by_id", params(OfParameterById), responses(Fault<404>))]
pub(super) async fn show_by_id(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfParameterById>,
) -> Result<Json<ParameterView>> {
    authorized.may("configuration-parameter:show_by_version")?;
    let (_, version) = state.app.get_version_by_id(authorized.caller.is_admin(), version_id(&of.id)?).await?;
    Ok(Json(ParameterView::of(&version, &state.app.parameter(&version, &of.name).await?)))
}

/// List what can be set in a version, for administrators
///
/// The bounds have other names here.
#[utoipa::path(get, path = "/mgmt/datastores/versions/{id}/parameters", tag = "management",
    operation_id = "list_managed_parameters", params(OfVersionId), responses(Fault<404>))]
pub(super) async fn list_managed(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path(of): Path<OfVersionId>,
) -> Result<Json<ParametersBody>> {
    let (_, version) = state.app.get_version_by_id(true, version_id(&of.id)?).await?;
    ParametersBody::of(&state, &version, ParameterView::managed).await
}

/// Show a parameter of a version, for administrators
#[utoipa::path(get, path = "/mgmt/datastores/versions/{id}/parameters/{name}", tag = "management",
    operation_id = "show_managed_parameter", params(OfParameterById), responses(Fault<404>))]
pub(super) async fn show_managed(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path(of): Path<OfParameterById>,
) -> Result<Json<ParameterView>> {
    let (_, version) = state.app.get_version_by_id(true, version_id(&of.id)?).await?;
    Ok(Json(ParameterView::managed(&version, &state.app.parameter(&version, &of.name).await?)))
}
