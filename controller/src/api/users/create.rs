//! Creates accounts.

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{OfUser, host, names};
use crate::api::ApiState;
use crate::api::databases::DatabaseName;
use crate::api::http::answer::Accepted;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::http::fields::{Host, Password};
use crate::api::instances::{OfInstance, instance_id};
use crate::app::accounts;
use crate::error::Result;

/// An account to be made.
#[derive(Deserialize, ToSchema)]
pub(in crate::api) struct NewUser {
    name: String,
    /// `%` where nothing is said.
    host: Option<Host>,
    password: Password,
    /// What it may enter.
    databases: Option<Vec<DatabaseName>>,
}

impl From<NewUser> for accounts::NewUser {
    fn from(new: NewUser) -> Self {
        let (host, databases) = (host(new.host), names(new.databases));
        Self { name: new.name, host, password: new.password.0, databases }
    }
}

/// Accounts to be made.
#[derive(Deserialize, ToSchema)]
pub(in crate::api) struct NewUsers {
    users: Vec<NewUser>,
}

/// An account to be made; the path has its name.
#[derive(Deserialize, ToSchema)]
struct NamedUser {
    host: Option<Host>,
    password: Password,
    databases: Option<Vec<DatabaseName>>,
}

/// A single account under `users`, which is openstacksdk's way.
#[derive(Deserialize, ToSchema)]
pub(in crate::api) struct NewNamedUser {
    users: NamedUser,
}

async fn create_all(
    state: &ApiState,
    authorized: &Authorized,
    id: &str,
    users: Vec<accounts::NewUser>,
) -> Result<Accepted> {
    authorized.may("instance:extension:user:create")?;
    let (caller, id) = (&authorized.caller, instance_id(id)?);
    Ok(state.app.create_users(caller, &authorized.request_id, id, users).await?.into())
}

/// Create accounts
#[utoipa::path(post, path = "/instances/{id}/users", tag = "users", operation_id = "create_users", params(OfInstance),
    responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn create(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
    Json(body): Json<NewUsers>,
) -> Result<Accepted> {
    create_all(&state, &authorized, &of.id, body.users.into_iter().map(Into::into).collect()).await
}

/// Create an account of this name
#[utoipa::path(post, path = "/instances/{id}/users/{user}", tag = "users", operation_id = "create_user",
    params(OfUser), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn create_named(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfUser>,
    Json(body): Json<NewNamedUser>,
) -> Result<Accepted> {
    let NamedUser { host, password, databases } = body.users;
    let user = NewUser { name: of.user, host, password, databases };
    create_all(&state, &authorized, &of.id, vec![user.into()]).await
}
