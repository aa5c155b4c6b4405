//! Deletes a database.

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::ApiState;
use crate::api::http::answer::Accepted;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{NoQuery, Path};
use crate::api::http::fault::Fault;
use crate::api::instances::instance_id;
use crate::error::Result;

#[derive(Deserialize, IntoParams)]
pub(in crate::api) struct OfDatabase {
    /// The instance.
    #[param(value_type = Uuid)]
    id: String,
    /// The database.
    name: String,
}

/// Delete a database with all that is in it
#[utoipa::path(delete, path = "/instances/{id}/databases/{name}", tag = "databases", operation_id = "delete_database",
    params(OfDatabase), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn delete(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfDatabase>,
    _: NoQuery,
) -> Result<Accepted> {
    authorized.may("instance:extension:database:delete")?;
    let (caller, id) = (&authorized.caller, instance_id(&of.id)?);
    Ok(state.app.delete_database(caller, &authorized.request_id, id, &of.name).await?.into())
}
