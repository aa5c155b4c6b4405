//! `GET /instances/{id}`.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::instance_id;
use super::view::{self, Viewer};
use crate::api::ApiState;
use crate::api::auth::Authorized;
use crate::api::body::Path;
use crate::error::Result;

/// 200 with the detailed view.
pub(in crate::api) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>> {
    authorized.may("instance:show")?;
    let instance = state.app.get_instance(&authorized.caller, instance_id(&id)?).await?;
    let base = state.app.config.public_url();
    let (project, admin) = (&authorized.caller.project, authorized.caller.is_admin());
    Ok(Json(json!({"instance": view::shown(&Viewer { base: &base, project, admin }, &instance)})))
}
