//! Creates databases.

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::ApiState;
use crate::api::http::answer::Accepted;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::instances::{OfInstance, instance_id};
use crate::app::accounts;
use crate::error::{Error, Result};

/// A database to be made.
#[derive(Deserialize, ToSchema)]
pub(in crate::api) struct NewDatabase {
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
pub(in crate::api) struct NewDatabases {
    database: Option<NewDatabase>,
    databases: Option<Vec<NewDatabase>>,
}

/// Create databases
#[utoipa::path(post, path = "/instances/{id}/databases", tag = "databases", operation_id = "create_databases",
    params(OfInstance), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn create(
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
