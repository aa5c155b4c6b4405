//! `DELETE /instances/{id}`.

use axum::extract::State;

use super::{OfInstance, instance_id};
use crate::api::ApiState;
use crate::api::http::answer::Accepted;
use crate::api::http::auth::Authorized;
use crate::api::http::body::Path;
use crate::api::http::fault::Fault;
use crate::error::Result;

/// Delete an instance with everything that it has
#[utoipa::path(delete, path = "/instances/{id}", tag = "instances", operation_id = "delete_instance",
    params(OfInstance), responses(Fault<404>, Fault<409>, Fault<422>))]
pub(in crate::api) async fn delete(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
) -> Result<Accepted> {
    authorized.may("instance:delete")?;
    let (caller, id) = (&authorized.caller, instance_id(&of.id)?);
    Ok(state.app.delete_instance(caller, &authorized.request_id, id).await?.into())
}
