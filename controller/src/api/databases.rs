//! Databases of an instance.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ApiState;
use super::http::answer::Accepted;
use super::http::auth::Authorized;
use super::http::body::{Json, NoQuery, Path};
use super::http::fault::Fault;
use super::http::links::Link;
use super::http::paging::Paging;
use super::instances::{OfInstance, instance_id};
use crate::app::accounts;
use crate::error::{Error, Result};

/// A database to be made.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewDatabase {
    name: String,
    /// The engine's name of a character set.
    character_set: Option<String>,
    /// The engine's name of a collation.
    collate: Option<String>,
}

impl From<NewDatabase> for accounts::NewDatabase {
    fn from(new: NewDatabase) -> Self {
        Self { name: new.name, character_set: new.character_set, collation: new.collate }
    }
}

/// Databases to be made; openstacksdk sends a single one.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewDatabases {
    database: Option<NewDatabase>,
    databases: Option<Vec<NewDatabase>>,
}

/// A database by its name.
#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct DatabaseName {
    pub(super) name: String,
}

/// A page of databases.
#[derive(Serialize, ToSchema)]
pub(super) struct DatabasesPage {
    databases: Vec<DatabaseName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    databases_links: Option<Vec<Link>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<Vec<Link>>,
}

#[derive(Deserialize, IntoParams)]
pub(super) struct OfDatabase {
    /// The instance.
    #[param(value_type = Uuid)]
    id: String,
    /// The database.
    name: String,
}

/// List the databases of an instance
#[utoipa::path(get, path = "/instances/{id}/databases", tag = "databases", operation_id = "list_databases",
    params(OfInstance, Paging), responses(Fault<404>, Fault<422>))]
pub(super) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
    paging: Paging,
) -> Result<Json<DatabasesPage>> {
    authorized.may("instance:extension:database:index")?;
    let page = state.app.list_databases(&authorized.caller, instance_id(&of.id)?, paging.request()).await?;
    let links = paging.next(&state.app.config.public_url(), page.next.as_deref());
    let databases = page.items.into_iter().map(|name| DatabaseName { name }).collect();
    Ok(Json(DatabasesPage { databases, databases_links: links.clone(), links }))
}

/// Create databases
#[utoipa::path(post, path = "/instances/{id}/databases", tag = "databases", operation_id = "create_databases",
    params(OfInstance), responses(Fault<404>, Fault<422>))]
pub(super) async fn create(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
    Json(body): Json<NewDatabases>,
) -> Result<Accepted> {
    authorized.may("instance:extension:database:create")?;
    let missing = || Error::BadRequest("Validation error: databases is required.".to_owned());
    let databases = body.database.map(|single| vec![single]).or(body.databases).ok_or_else(missing)?;
    let databases = databases.into_iter().map(Into::into).collect();
    let (caller, id) = (&authorized.caller, instance_id(&of.id)?);
    Ok(state.app.create_databases(caller, &authorized.request_id, id, databases).await?.into())
}

/// Delete a database with all that is in it
#[utoipa::path(delete, path = "/instances/{id}/databases/{name}", tag = "databases", operation_id = "delete_database",
    params(OfDatabase), responses(Fault<404>, Fault<422>))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfDatabase>,
    _: NoQuery,
) -> Result<Accepted> {
    authorized.may("instance:extension:database:delete")?;
    let (caller, id) = (&authorized.caller, instance_id(&of.id)?);
    Ok(state.app.delete_database(caller, &authorized.request_id, id, &of.name).await?.into())
}
