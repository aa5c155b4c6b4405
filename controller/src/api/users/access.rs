//! Which databases an account may enter.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{OfUser, by_name, names};
use crate::api::ApiState;
use crate::api::databases::DatabaseName;
use crate::api::http::answer::Accepted;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, NoQuery, Path};
use crate::api::http::fault::Fault;
use crate::api::instances::instance_id;
use crate::error::Result;

/// Databases by their names.
#[derive(Serialize, Deserialize, ToSchema)]
pub(in crate::api) struct Grants {
    databases: Vec<DatabaseName>,
}

#[derive(Deserialize, IntoParams)]
pub(in crate::api) struct OfGrant {
    /// The instance.
    #[param(value_type = Uuid)]
    id: String,
    /// The name of the account; `name@host` where accounts have hosts.
    user: String,
    /// The database.
    name: String,
}

/// List the databases that an account may access
///
/// In one page.
#[utoipa::path(get, path = "/instances/{id}/users/{user}/databases", tag = "users", operation_id = "list_grants",
    params(OfUser), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn list_access(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfUser>,
) -> Result<Json<Grants>> {
    authorized.may("instance:extension:user_access:index")?;
    let user = state.app.get_user(&authorized.caller, instance_id(&of.id)?, &of.user).await?;
    Ok(Json(Grants { databases: by_name(user.databases) }))
}

/// Grant an account access to databases
///
/// Answers when that acts, or after `api.answer_within`.
#[utoipa::path(put, path = "/instances/{id}/users/{user}/databases", tag = "users", operation_id = "grant",
    params(OfUser), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn grant(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfUser>,
    Json(body): Json<Grants>,
) -> Result<Accepted> {
    authorized.may("instance:extension:user_access:update")?;
    let databases = names(Some(body.databases));
    let (caller, id) = (&authorized.caller, instance_id(&of.id)?);
    state.once_it_acts(state.app.grant(caller, &authorized.request_id, id, &of.user, databases).await?).await
}

/// Revoke an account's access to a database
///
/// Answers when that acts, or after `api.answer_within`.
#[utoipa::path(delete, path = "/instances/{id}/users/{user}/databases/{name}", tag = "users", operation_id = "revoke",
    params(OfGrant), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn revoke(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfGrant>,
    _: NoQuery,
) -> Result<Accepted> {
    authorized.may("instance:extension:user_access:delete")?;
    let (caller, id) = (&authorized.caller, instance_id(&of.id)?);
    state.once_it_acts(state.app.revoke(caller, &authorized.request_id, id, &of.user, &of.name).await?).await
}
