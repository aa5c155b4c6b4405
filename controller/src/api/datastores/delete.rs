//! Deletes a datastore.

use axum::extract::State;

use super::OfDatastore;
use crate::api::ApiState;
use crate::api::http::answer::Accepted;
use crate::api::http::auth::Authorized;
use crate::api::http::body::Path;
use crate::api::http::fault::Fault;
use crate::error::Result;

/// Delete a datastore that has no versions
#[utoipa::path(delete, path = "/datastores/{datastore}", tag = "management", operation_id = "delete_datastore",
    params(OfDatastore), responses(Fault<404>))]
pub(in crate::api) async fn delete(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfDatastore>,
) -> Result<Accepted> {
    authorized.may("datastore:delete")?;
    state.app.delete_datastore(&of.datastore).await?;
    Ok(Accepted(None))
}
