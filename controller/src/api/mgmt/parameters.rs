//! What administrators say of the parameters of a version: they narrow some and hide others.

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Number, Value};
use trove_strategy::ParameterType;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::api::ApiState;
use crate::api::datastores::{OfVersionId, version_id};
use crate::api::http::answer::NoContent;
use crate::api::http::auth::Administrator;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::http::fields::{Bit, Name};
use crate::api::parameters::{OfParameterById, ParameterView};
use crate::app::parameter_rules::WantedParameter;
use crate::error::{Error, Result};

/// A bound: a number, or a string of one.
#[derive(Clone, Deserialize)]
#[serde(try_from = "Value")]
struct Bound(Number);

impl TryFrom<Value> for Bound {
    type Error = &'static str;

    fn try_from(value: Value) -> std::result::Result<Self, Self::Error> {
        let number = match value {
            Value::Number(number) => Some(number),
            Value::String(text) if text.len() <= 40 => text.parse().ok(),
            _ => None,
        };
        number.map(Self).ok_or("must be a number")
    }
}

impl ToSchema for Bound {}

impl PartialSchema for Bound {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Number);
        let text = ObjectBuilder::new().schema_type(Type::String).max_length(Some(40));
        OneOfBuilder::new().item(number).item(text).description(Some("A number, or a string of one.")).into()
    }
}

/// The type of a parameter's value.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct DataType(ParameterType);

impl TryFrom<String> for DataType {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        Ok(Self(match text.as_str() {
            "boolean" => ParameterType::Boolean,
            "integer" => ParameterType::Integer,
            "float" => ParameterType::Float,
            "string" => ParameterType::String,
            _ => return Err("must be boolean, integer, float or string"),
        }))
    }
}

impl ToSchema for DataType {}

impl PartialSchema for DataType {
    fn schema() -> RefOr<Schema> {
        let names = ["boolean", "integer", "float", "string"];
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).into()
    }
}

/// A parameter as an administrator wants it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RuledParameter {
    /// Where it stands in the path too, it is the same.
    name: Option<Name>,
    /// That of the manifest.
    data_type: DataType,
    restart_required: Bit,
    /// Smallest number; integers need it.
    min_size: Option<Bound>,
    /// Greatest number; integers need it.
    max_size: Option<Bound>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct RuledParameterBody {
    #[serde(rename = "configuration-parameter")]
    parameter: RuledParameter,
}

impl RuledParameterBody {
    fn into_wanted(self, path: Option<String>) -> Result<WantedParameter> {
        let given = self.parameter.name.map(|name| name.0);
        let name = match (path, given) {
            (Some(path), Some(given)) if !path.eq_ignore_ascii_case(&given) => {
                return Err(Error::BadRequest(
                    "Validation error: configuration-parameter['name'] must be that of the path.".to_owned(),
                ));
            }
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => {
                return Err(Error::BadRequest(
                    "Validation error: configuration-parameter['name'] is required.".to_owned(),
                ));
            }
        };
        Ok(WantedParameter {
            name,
            kind: self.parameter.data_type.0,
            restart_required: self.parameter.restart_required.0,
            min: self.parameter.min_size.map(|bound| bound.0),
            max: self.parameter.max_size.map(|bound| bound.0),
        })
    }
}

/// Narrow a parameter of a version, or show one again that was hidden
///
/// What the strategy does not describe cannot be added.
#[utoipa::path(post, path = "/mgmt/datastores/versions/{id}/parameters", tag = "management",
    operation_id = "add_managed_parameter", params(OfVersionId), responses(Fault<404>))]
pub(in crate::api) async fn add(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path(of): Path<OfVersionId>,
    Json(body): Json<RuledParameterBody>,
) -> Result<Json<ParameterView>> {
    let (version, parameter) = state.app.add_parameter(version_id(&of.id)?, body.into_wanted(None)?).await?;
    Ok(Json(ParameterView::managed(&version, &parameter)))
}

/// Narrow a parameter of a version, in place of what was said before
#[utoipa::path(put, path = "/mgmt/datastores/versions/{id}/parameters/{name}", tag = "management",
    operation_id = "update_managed_parameter", params(OfParameterById), responses(Fault<404>))]
pub(in crate::api) async fn change(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path(of): Path<OfParameterById>,
    Json(body): Json<RuledParameterBody>,
) -> Result<Json<ParameterView>> {
    let wanted = body.into_wanted(Some(of.name))?;
    let (version, parameter) = state.app.change_parameter(version_id(&of.id)?, wanted).await?;
    Ok(Json(ParameterView::managed(&version, &parameter)))
}

/// Hide a parameter of a version: nobody can set it any more
#[utoipa::path(delete, path = "/mgmt/datastores/versions/{id}/parameters/{name}", tag = "management",
    operation_id = "hide_managed_parameter", params(OfParameterById), responses(Fault<404>))]
pub(in crate::api) async fn hide(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path(of): Path<OfParameterById>,
) -> Result<NoContent> {
    state.app.hide_parameter(version_id(&of.id)?, &of.name).await?;
    Ok(NoContent)
}
