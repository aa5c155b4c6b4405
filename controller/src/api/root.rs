//! The all-powerful account of an instance.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Authorized;
use super::body::{OptionalBody, Path};
use super::fault::with_operation;
use super::instances::instance_id;
use super::schema::Field;
use crate::error::Result;

/// `GET /instances/{id}/root`.
pub(super) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>> {
    authorized.may("instance:extension:root:index")?;
    let enabled = state.app.root_enabled(&authorized.caller, instance_id(&id)?).await?;
    Ok(Json(json!({"rootEnabled": enabled})))
}

/// `POST /instances/{id}/root`: 200 with the password, which is shown this once.
pub(super) async fn enable(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
    OptionalBody(body): OptionalBody,
) -> Result<Response> {
    authorized.may("instance:extension:root:create")?;
    let body = body.unwrap_or_default();
    let password = Field::of(&body, "password").optional(Field::password)?;
    let (caller, id) = (&authorized.caller, instance_id(&id)?);
    let root = state.app.enable_root(caller, &authorized.request_id, id, password).await?;
    let view = json!({"user": {"name": root.name, "password": root.password.expose_secret()}});
    Ok(with_operation(Json(view).into_response(), &root.operation.to_string()))
}

/// `DELETE /instances/{id}/root`: 204.
pub(super) async fn disable(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
) -> Result<Response> {
    authorized.may("instance:extension:root:delete")?;
    let (caller, id) = (&authorized.caller, instance_id(&id)?);
    let accepted = state.app.disable_root(caller, &authorized.request_id, id).await?;
    Ok(with_operation(StatusCode::NO_CONTENT.into_response(), &accepted.operation.to_string()))
}
