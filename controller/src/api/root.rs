//! The all-powerful account of an instance.

use axum::extract::State;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::http::answer::{NoContent, WithOperation};
use super::http::auth::Authorized;
use super::http::body::{Json, Path};
use super::http::fault::Fault;
use super::http::fields::Password;
use super::instances::{OfInstance, instance_id};
use crate::error::Result;

#[derive(Serialize, ToSchema)]
pub(super) struct RootState {
    #[serde(rename = "rootEnabled")]
    root_enabled: bool,
}

/// What root is to be like.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewRoot {
    /// One is made where none is given.
    password: Option<Password>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct RootBody {
    user: RootView,
}

/// Root with its password, which is shown this once.
#[derive(Serialize, ToSchema)]
struct RootView {
    name: String,
    password: String,
}

/// Show whether root is enabled
#[utoipa::path(get, path = "/instances/{id}/root", tag = "users", operation_id = "show_root", params(OfInstance),
    responses(Fault<404>, Fault<422>))]
pub(super) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
) -> Result<Json<RootState>> {
    authorized.may("instance:extension:root:index")?;
    let root_enabled = state.app.root_enabled(&authorized.caller, instance_id(&of.id)?).await?;
    Ok(Json(RootState { root_enabled }))
}

/// Enable root
///
/// The password is shown this once.
#[utoipa::path(post, path = "/instances/{id}/root", tag = "users", operation_id = "enable_root", params(OfInstance),
    responses(Fault<404>, Fault<422>))]
pub(super) async fn enable(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
    body: Option<Json<NewRoot>>,
) -> Result<WithOperation<Json<RootBody>>> {
    authorized.may("instance:extension:root:create")?;
    let password = body.and_then(|body| body.0.password).map(|password| password.0);
    let (caller, id) = (&authorized.caller, instance_id(&of.id)?);
    let root = state.app.enable_root(caller, &authorized.request_id, id, password).await?;
    let user = RootView { name: root.name, password: root.password.expose_secret().to_owned() };
    Ok(WithOperation(Json(RootBody { user }), root.operation))
}

/// Disable root
#[utoipa::path(delete, path = "/instances/{id}/root", tag = "users", operation_id = "disable_root",
    params(OfInstance), responses(Fault<404>, Fault<422>))]
pub(super) async fn disable(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
) -> Result<WithOperation<NoContent>> {
    authorized.may("instance:extension:root:delete")?;
    let (caller, id) = (&authorized.caller, instance_id(&of.id)?);
    let accepted = state.app.disable_root(caller, &authorized.request_id, id).await?;
    let operation = accepted.operation;
    state.once_it_acts(accepted).await?;
    Ok(WithOperation(NoContent, operation))
}
