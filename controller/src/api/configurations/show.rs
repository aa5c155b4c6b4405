//! `GET /configurations/{id}`.

use axum::extract::State;

use super::view::{ConfigurationBody, body};
use super::{OfConfiguration, configuration_id};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::error::Result;

/// Show a configuration group
#[utoipa::path(get, path = "/configurations/{id}", tag = "configurations", operation_id = "show_configuration",
    params(OfConfiguration), responses(Fault<404>))]
pub(in crate::api) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfConfiguration>,
) -> Result<Json<ConfigurationBody>> {
    authorized.may("configuration:show")?;
    let configuration = state.app.get_configuration(&authorized.caller, configuration_id(&of.id)?).await?;
    Ok(Json(body(&configuration)))
}
