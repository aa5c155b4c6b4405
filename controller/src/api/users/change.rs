//! Changes accounts, and their passwords.

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{OfUser, host};
use crate::api::ApiState;
use crate::api::http::answer::Accepted;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::http::fields::{Host, Password};
use crate::api::instances::{OfInstance, instance_id};
use crate::app::accounts::{self, UserRef};
use crate::error::{Error, Result};

/// A new password of an account.
#[derive(Deserialize, ToSchema)]
struct NewPassword {
    name: String,
    host: Option<Host>,
    password: Password,
}

#[derive(Deserialize, ToSchema)]
pub(in crate::api) struct NewPasswords {
    users: Vec<NewPassword>,
}

/// What is to become of an account: at least one of these.
#[derive(Deserialize, ToSchema)]
struct UserChange {
    name: Option<String>,
    host: Option<Host>,
    password: Option<Password>,
}

#[derive(Deserialize, ToSchema)]
pub(in crate::api) struct ChangedUser {
    user: UserChange,
}

/// Set passwords of accounts
///
/// Answers when they act, or after `api.answer_within`.
#[utoipa::path(put, path = "/instances/{id}/users", tag = "users", operation_id = "change_passwords",
    params(OfInstance), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn change_passwords(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
    Json(body): Json<NewPasswords>,
) -> Result<Accepted> {
    authorized.may("instance:extension:user:update_all")?;
    let change = |user: NewPassword| (UserRef { name: user.name, host: host(user.host) }, user.password.0);
    let users = body.users.into_iter().map(change).collect();
    let (caller, id) = (&authorized.caller, instance_id(&of.id)?);
    state.once_it_acts(state.app.change_passwords(caller, &authorized.request_id, id, users).await?).await
}

/// Change name, hosts or password of an account
///
/// Answers when that acts, or after `api.answer_within`.
#[utoipa::path(put, path = "/instances/{id}/users/{user}", tag = "users", operation_id = "update_user",
    params(OfUser), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn update(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfUser>,
    Json(ChangedUser { user: change }): Json<ChangedUser>,
) -> Result<Accepted> {
    authorized.may("instance:extension:user:update")?;
    if change.name.is_none() && change.host.is_none() && change.password.is_none() {
        return Err(Error::BadRequest(
            "Validation error: user needs at least one of name, password and host.".to_owned(),
        ));
    }
    let change = accounts::UserChange {
        name: change.name,
        host: change.host.map(|host| host.0),
        password: change.password.map(|password| password.0),
    };
    let (caller, id) = (&authorized.caller, instance_id(&of.id)?);
    state.once_it_acts(state.app.change_user(caller, &authorized.request_id, id, &of.user, change).await?).await
}
