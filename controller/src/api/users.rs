//! Accounts of an instance, and what they may enter.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ApiState;
use super::databases::DatabaseName;
use super::http::answer::Accepted;
use super::http::auth::Authorized;
use super::http::body::{Json, NoQuery, Path};
use super::http::fault::Fault;
use super::http::fields::{Host, Password};
use super::http::links::Link;
use super::http::paging::Paging;
use super::instances::{OfInstance, instance_id};
use crate::app::accounts::{self, ANY_HOST, User, UserRef};
use crate::error::{Error, Result};

fn host(given: Option<Host>) -> String {
    given.map_or_else(|| ANY_HOST.to_owned(), |host| host.0)
}

fn names(databases: Option<Vec<DatabaseName>>) -> Vec<String> {
    databases.into_iter().flatten().map(|database| database.name).collect()
}

/// An account to be made.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewUser {
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
pub(super) struct NewUsers {
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
pub(super) struct NewNamedUser {
    users: NamedUser,
}

/// A new password of an account.
#[derive(Deserialize, ToSchema)]
struct NewPassword {
    name: String,
    host: Option<Host>,
    password: Password,
}

#[derive(Deserialize, ToSchema)]
pub(super) struct NewPasswords {
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
pub(super) struct ChangedUser {
    user: UserChange,
}

/// Databases by their names.
#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Grants {
    databases: Vec<DatabaseName>,
}

fn by_name(databases: Vec<String>) -> Vec<DatabaseName> {
    databases.into_iter().map(|name| DatabaseName { name }).collect()
}

/// An account.
#[derive(Serialize, ToSchema)]
struct UserView {
    name: String,
    host: String,
    databases: Vec<DatabaseName>,
}

impl From<User> for UserView {
    fn from(user: User) -> Self {
        Self { name: user.name, host: user.host, databases: by_name(user.databases) }
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct UserBody {
    user: UserView,
}

/// A page of accounts.
#[derive(Serialize, ToSchema)]
pub(super) struct UsersPage {
    users: Vec<UserView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    users_links: Option<Vec<Link>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<Vec<Link>>,
}

#[derive(Deserialize, IntoParams)]
pub(super) struct OfUser {
    /// The instance.
    #[param(value_type = Uuid)]
    id: String,
    /// The name of the account; `name@host` where accounts have hosts.
    user: String,
}

#[derive(Deserialize, IntoParams)]
pub(super) struct OfGrant {
    /// The instance.
    #[param(value_type = Uuid)]
    id: String,
    /// The name of the account; `name@host` where accounts have hosts.
    user: String,
    /// The database.
    name: String,
}

/// List the accounts of an instance
#[utoipa::path(get, path = "/instances/{id}/users", tag = "users", operation_id = "list_users",
    params(OfInstance, Paging), responses(Fault<404>, Fault<422>))]
pub(super) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
    paging: Paging,
) -> Result<Json<UsersPage>> {
    authorized.may("instance:extension:user:index")?;
    let page = state.app.list_users(&authorized.caller, instance_id(&of.id)?, paging.request()).await?;
    let links = paging.next(&state.app.config.public_url(), page.next.as_deref());
    let users = page.items.into_iter().map(UserView::from).collect();
    Ok(Json(UsersPage { users, users_links: links.clone(), links }))
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
pub(super) async fn create(
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
pub(super) async fn create_named(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfUser>,
    Json(body): Json<NewNamedUser>,
) -> Result<Accepted> {
    let NamedUser { host, password, databases } = body.users;
    let user = NewUser { name: of.user, host, password, databases };
    create_all(&state, &authorized, &of.id, vec![user.into()]).await
}

/// Set passwords of accounts
///
/// Answers when they act, or after `api.answer_within`.
#[utoipa::path(put, path = "/instances/{id}/users", tag = "users", operation_id = "change_passwords",
    params(OfInstance), responses(Fault<404>, Fault<422>))]
pub(super) async fn change_passwords(
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

/// Show an account
#[utoipa::path(get, path = "/instances/{id}/users/{user}", tag = "users", operation_id = "show_user", params(OfUser),
    responses(Fault<404>, Fault<422>))]
pub(super) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfUser>,
) -> Result<Json<UserBody>> {
    authorized.may("instance:extension:user:show")?;
    let user = state.app.get_user(&authorized.caller, instance_id(&of.id)?, &of.user).await?;
    Ok(Json(UserBody { user: user.into() }))
}

/// Change name, hosts or password of an account
///
/// Answers when that acts, or after `api.answer_within`.
#[utoipa::path(put, path = "/instances/{id}/users/{user}", tag = "users", operation_id = "update_user",
    params(OfUser), responses(Fault<404>, Fault<422>))]
pub(super) async fn update(
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

/// Delete an account
#[utoipa::path(delete, path = "/instances/{id}/users/{user}", tag = "users", operation_id = "delete_user",
    params(OfUser), responses(Fault<404>, Fault<422>))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfUser>,
    _: NoQuery,
) -> Result<Accepted> {
    authorized.may("instance:extension:user:delete")?;
    let (caller, id) = (&authorized.caller, instance_id(&of.id)?);
    Ok(state.app.delete_user(caller, &authorized.request_id, id, &of.user).await?.into())
}

/// List the databases that an account may access
///
/// In one page.
#[utoipa::path(get, path = "/instances/{id}/users/{user}/databases", tag = "users", operation_id = "list_grants",
    params(OfUser), responses(Fault<404>, Fault<422>))]
pub(super) async fn list_access(
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
pub(super) async fn grant(
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
pub(super) async fn revoke(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfGrant>,
    _: NoQuery,
) -> Result<Accepted> {
    authorized.may("instance:extension:user_access:delete")?;
    let (caller, id) = (&authorized.caller, instance_id(&of.id)?);
    state.once_it_acts(state.app.revoke(caller, &authorized.request_id, id, &of.user, &of.name).await?).await
}
