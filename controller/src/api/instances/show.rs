//! `GET /instances/{id}`.

use axum::extract::State;

use super::view::{self, InstanceBody, Viewer};
use super::{OfInstance, instance_id};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::error::Result;

/// Show an instance
#[utoipa::path(get, path = "/instances/{id}", tag = "instances", operation_id = "show_instance", params(OfInstance),
    responses(Fault<404>))]
pub(in crate::api) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
) -> Result<Json<InstanceBody>> {
    authorized.may("instance:show")?;
    let id = instance_id(&of.id)?;
    let instance = state.app.get_instance(&authorized.caller, id).await?;
    let base = state.app.config.public_url();
    let (project, admin) = (&authorized.caller.project, authorized.caller.is_admin());
    Ok(Json(InstanceBody { instance: view::shown(&Viewer { base: &base, project, admin }, &instance) }))
}
