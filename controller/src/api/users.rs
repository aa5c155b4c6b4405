//! Accounts of an instance, and what they may enter.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Authorized;
use super::body::{Body, Path};
use super::fault::accepted_as;
use super::instances::instance_id;
use super::paging::Paging;
use super::schema::Field;
use crate::app::accounts::{ANY_HOST, NewUser, User, UserChange, UserRef};
use crate::error::{Error, Result};

/// `name` or `name@host` of a path, decoded already: the host is what follows the last `@`.
fn user_ref(text: &str) -> UserRef {
    match text.rsplit_once('@') {
        Some((name, host)) if !host.is_empty() => UserRef { name: name.to_owned(), host: host.to_owned() },
        Some((name, _)) => UserRef { name: name.to_owned(), host: ANY_HOST.to_owned() },
        None => UserRef { name: text.to_owned(), host: ANY_HOST.to_owned() },
    }
}

fn database_names(field: &Field<'_>) -> Result<Vec<String>> {
    field.items()?.iter().map(|item| item.part("name").text()).collect()
}

/// A user of a body; `name` where the path gives it.
pub(super) fn new_user(field: &Field<'_>, name: Option<&str>) -> Result<NewUser> {
    field.object()?;
    Ok(NewUser {
        name: name.map_or_else(|| field.part("name").text(), |name| Ok(name.to_owned()))?,
        host: field.part("host").optional(Field::host)?.unwrap_or_else(|| ANY_HOST.to_owned()),
        password: field.part("password").password()?,
        databases: field.part("databases").optional(database_names)?.unwrap_or_default(),
    })
}

fn names(databases: &[String]) -> Vec<Value> {
    databases.iter().map(|name| json!({"name": name})).collect()
}

fn view(user: &User) -> Value {
    json!({"name": user.name, "host": user.host, "databases": names(&user.databases)})
}

/// `GET /instances/{id}/users`.
pub(super) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
    paging: Paging,
) -> Result<Json<Value>> {
    authorized.may("instance:extension:user:index")?;
    let page = state.app.list_users(&authorized.caller, instance_id(&id)?, paging.request()).await?;
    Ok(Json(paging.page(&state.app.config.public_url(), "users", page, |user| view(&user))))
}

async fn create_all(state: &ApiState, authorized: &Authorized, id: &str, users: Vec<NewUser>) -> Result<Response> {
    authorized.may("instance:extension:user:create")?;
    let (caller, id) = (&authorized.caller, instance_id(id)?);
    Ok(accepted_as(&state.app.create_users(caller, &authorized.request_id, id, users).await?))
}

/// `POST /instances/{id}/users`.
pub(super) async fn create(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
    Body(body): Body,
) -> Result<Response> {
    let fields = Field::of(&body, "users").items()?;
    let users = fields.iter().map(|field| new_user(field, None)).collect::<Result<Vec<_>>>()?;
    create_all(&state, &authorized, &id, users).await
}

/// `POST /instances/{id}/users/{name}`: openstacksdk's way, with a single object under `users`.
pub(super) async fn create_named(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id, name)): Path<(String, String, String)>,
    Body(body): Body,
) -> Result<Response> {
    let user = new_user(&Field::of(&body, "users"), Some(&name))?;
    create_all(&state, &authorized, &id, vec![user]).await
}

/// `PUT /instances/{id}/users`: new passwords.
pub(super) async fn change_passwords(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
    Body(body): Body,
) -> Result<Response> {
    authorized.may("instance:extension:user:update_all")?;
    let mut users = Vec::new();
    for field in Field::of(&body, "users").items()? {
        let host = field.part("host").optional(Field::host)?.unwrap_or_else(|| ANY_HOST.to_owned());
        users.push((UserRef { name: field.part("name").text()?, host }, field.part("password").password()?));
    }
    let (caller, id) = (&authorized.caller, instance_id(&id)?);
    Ok(accepted_as(&state.app.change_passwords(caller, &authorized.request_id, id, users).await?))
}

/// `GET /instances/{id}/users/{user}`.
pub(super) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id, user)): Path<(String, String, String)>,
) -> Result<Json<Value>> {
    authorized.may("instance:extension:user:show")?;
    let user = state.app.get_user(&authorized.caller, instance_id(&id)?, &user_ref(&user)).await?;
    Ok(Json(json!({"user": view(&user)})))
}

/// `PUT /instances/{id}/users/{user}`.
pub(super) async fn update(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id, user)): Path<(String, String, String)>,
    Body(body): Body,
) -> Result<Response> {
    authorized.may("instance:extension:user:update")?;
    let field = Field::of(&body, "user");
    field.object()?;
    let change = UserChange {
        name: field.part("name").optional(Field::text)?,
        host: field.part("host").optional(Field::host)?,
        password: field.part("password").optional(Field::password)?,
    };
    if change.name.is_none() && change.host.is_none() && change.password.is_none() {
        return Err(Error::BadRequest(
            "Validation error: user needs at least one of name, password and host.".to_owned(),
        ));
    }
    let (caller, id) = (&authorized.caller, instance_id(&id)?);
    Ok(accepted_as(&state.app.change_user(caller, &authorized.request_id, id, &user_ref(&user), change).await?))
}

/// `DELETE /instances/{id}/users/{user}`.
pub(super) async fn delete(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id, user)): Path<(String, String, String)>,
) -> Result<Response> {
    authorized.may("instance:extension:user:delete")?;
    let (caller, id) = (&authorized.caller, instance_id(&id)?);
    Ok(accepted_as(&state.app.delete_user(caller, &authorized.request_id, id, &user_ref(&user)).await?))
}

/// `GET /instances/{id}/users/{user}/databases`: not paged.
pub(super) async fn list_access(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id, user)): Path<(String, String, String)>,
) -> Result<Json<Value>> {
    authorized.may("instance:extension:user_access:index")?;
    let user = state.app.get_user(&authorized.caller, instance_id(&id)?, &user_ref(&user)).await?;
    Ok(Json(json!({"databases": names(&user.databases)})))
}

/// `PUT /instances/{id}/users/{user}/databases`.
pub(super) async fn grant(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id, user)): Path<(String, String, String)>,
    Body(body): Body,
) -> Result<Response> {
    authorized.may("instance:extension:user_access:update")?;
    let databases = database_names(&Field::of(&body, "databases"))?;
    let (caller, id) = (&authorized.caller, instance_id(&id)?);
    Ok(accepted_as(&state.app.grant(caller, &authorized.request_id, id, &user_ref(&user), databases).await?))
}

/// `DELETE /instances/{id}/users/{user}/databases/{name}`.
pub(super) async fn revoke(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id, user, database)): Path<(String, String, String, String)>,
) -> Result<Response> {
    authorized.may("instance:extension:user_access:delete")?;
    let (caller, id) = (&authorized.caller, instance_id(&id)?);
    Ok(accepted_as(&state.app.revoke(caller, &authorized.request_id, id, &user_ref(&user), &database).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_follows_the_last_at_sign() {
        for (text, name, host) in [
            ("u", "u", "%"),
            ("u@", "u", "%"),
            ("u@1.2.3.4", "u", "1.2.3.4"),
            ("u@x@10.0.%", "u@x", "10.0.%"),
            ("o'neil \"x\"", "o'neil \"x\"", "%"),
        ] {
            assert_eq!(user_ref(text), UserRef { name: name.into(), host: host.into() }, "{text}");
        }
    }
}
