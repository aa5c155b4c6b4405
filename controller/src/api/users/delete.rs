//! Deletes an account.

use axum::extract::State;

use super::OfUser;
use crate::api::ApiState;
use crate::api::http::answer::Accepted;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{NoQuery, Path};
use crate::api::http::fault::Fault;
use crate::api::instances::instance_id;
use crate::error::Result;

/// Delete an account
#[utoipa::path(delete, path = "/instances/{id}/users/{user}", tag = "users", operation_id = "delete_user",
    params(OfUser), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn delete(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfUser>,
    _: NoQuery,
) -> Result<Accepted> {
    authorized.may("instance:extension:user:delete")?;
    let (caller, id) = (&authorized.caller, instance_id(&of.id)?);
    Ok(state.app.delete_user(caller, &authorized.request_id, id, &of.user).await?.into())
}
