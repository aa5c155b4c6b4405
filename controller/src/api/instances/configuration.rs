//! What the engine of an instance runs with, and what was asked for.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::view::told;
use super::{OfInstance, instance_id};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::app::configurations::ParameterState;
use crate::app::instance_parameters::ComparedParameter;
use crate::error::Result;

/// What an engine runs with.
#[derive(Serialize, ToSchema)]
struct InForce {
    /// Values by the names of the parameters that can be set, as the engine writes them.
    configuration: BTreeMap<String, String>,
}

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct InForceBody {
    instance: InForce,
}

/// Show what the engine of an instance runs with
#[utoipa::path(get, path = "/instances/{id}/configuration", tag = "configurations",
    operation_id = "show_instance_configuration", params(OfInstance), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
) -> Result<Json<InForceBody>> {
    authorized.may("instance:configuration")?;
    let configuration = state.app.parameters_in_force(&authorized.caller, instance_id(&of.id)?).await?;
    Ok(Json(InForceBody { instance: InForce { configuration } }))
}

/// A parameter as it is wanted and as it is.
#[derive(Serialize, ToSchema)]
struct ComparedView {
    name: String,
    /// What the configuration group says; null: it wants the default.
    #[schema(value_type = Value)]
    wanted: Option<Value>,
    /// What the engine runs with, as it writes it; null while it cannot be asked.
    in_force: Option<String>,
    /// Whether these differ; null where that cannot be known.
    differs: Option<bool>,
    /// `live`, `needs_restart` or `refused`: what became of the value when the engine was given it; null until it was.
    state: Option<&'static str>,
    /// The engine's words, where it said something.
    reason: Option<String>,
    /// The engine's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_required: Option<bool>,
}

impl ComparedView {
    fn of(compared: ComparedParameter, admin: bool) -> Self {
        let reason = compared.result.as_ref().map(|result| told(&result.reason, admin));
        let rules = compared.rules;
        Self {
            name: compared.name,
            wanted: compared.wanted,
            in_force: compared.in_force,
            differs: compared.differs,
            state: compared.result.map(|result| ParameterState::tag(result.state)),
            reason: reason.filter(|reason| !reason.is_empty()),
            restart_required: rules.as_ref().map(|rules| rules.restart_required),
            default: rules.as_ref().and_then(|rules| rules.default.clone()),
            unit: rules.and_then(|rules| rules.unit),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ComparedBody {
    parameters: Vec<ComparedView>,
}

/// Compare what was asked for with what the engine runs with
///
/// The parameters that the configuration group sets, and those that wait to go back to their defaults.
#[utoipa::path(get, path = "/instances/{id}/parameters", tag = "configurations",
    operation_id = "compare_instance_parameters", params(OfInstance), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn compare(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
) -> Result<Json<ComparedBody>> {
    authorized.may("instance:configuration")?;
    let caller = &authorized.caller;
    let all = state.app.compare_parameters(caller, instance_id(&of.id)?).await?;
    let parameters = all.into_iter().map(|compared| ComparedView::of(compared, caller.is_admin())).collect();
    Ok(Json(ComparedBody { parameters }))
}
