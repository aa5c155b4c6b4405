//! Databases of an instance.

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
use crate::app::accounts::NewDatabase;
use crate::error::Result;

/// A database of a body.
pub(super) fn new_database(field: &Field<'_>) -> Result<NewDatabase> {
    field.object()?;
    Ok(NewDatabase {
        name: field.part("name").text()?,
        character_set: field.part("character_set").optional(Field::text)?,
        collation: field.part("collate").optional(Field::text)?,
    })
}

/// `GET /instances/{id}/databases`.
pub(super) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
    paging: Paging,
) -> Result<Json<Value>> {
    authorized.may("instance:extension:database:index")?;
    let page = state.app.list_databases(&authorized.caller, instance_id(&id)?, paging.request()).await?;
    Ok(Json(paging.page(&state.app.config.public_url(), "databases", page, |name| json!({"name": name}))))
}

/// `POST /instances/{id}/databases`. openstacksdk sends a single `database`.
pub(super) async fn create(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
    Body(body): Body,
) -> Result<Response> {
    authorized.may("instance:extension:database:create")?;
    let single = Field::of(&body, "database");
    let fields = if single.given() { vec![single] } else { Field::of(&body, "databases").items()? };
    let databases = fields.iter().map(new_database).collect::<Result<Vec<_>>>()?;
    let (caller, id) = (&authorized.caller, instance_id(&id)?);
    let accepted = state.app.create_databases(caller, &authorized.request_id, id, databases).await?;
    Ok(accepted_as(&accepted))
}

/// `DELETE /instances/{id}/databases/{name}`.
pub(super) async fn delete(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id, name)): Path<(String, String, String)>,
) -> Result<Response> {
    authorized.may("instance:extension:database:delete")?;
    let (caller, id) = (&authorized.caller, instance_id(&id)?);
    let accepted = state.app.delete_database(caller, &authorized.request_id, id, &name).await?;
    Ok(accepted_as(&accepted))
}
