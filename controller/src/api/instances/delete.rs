//! `DELETE /instances/{id}`.

use axum::extract::State;
use axum::response::Response;

use super::instance_id;
use crate::api::ApiState;
use crate::api::auth::Authorized;
use crate::api::body::Path;
use crate::api::fault::accepted_as;
use crate::error::Result;

/// 202.
pub(in crate::api) async fn delete(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
) -> Result<Response> {
    authorized.may("instance:delete")?;
    let (caller, id) = (&authorized.caller, instance_id(&id)?);
    Ok(accepted_as(&state.app.delete_instance(caller, &authorized.request_id, id).await?))
}
