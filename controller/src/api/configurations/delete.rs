//! `DELETE /configurations/{id}`.

use axum::extract::State;

use super::{OfConfiguration, configuration_id};
use crate::api::ApiState;
use crate::api::http::answer::Accepted;
use crate::api::http::auth::Authorized;
use crate::api::http::body::Path;
use crate::api::http::fault::Fault;
use crate::error::Result;

/// Delete a configuration group that no instance has
#[utoipa::path(delete, path = "/configurations/{id}", tag = "configurations", operation_id = "delete_configuration",
    params(OfConfiguration), responses(Fault<404>))]
pub(in crate::api) async fn delete(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfConfiguration>,
) -> Result<Accepted> {
    authorized.may("configuration:delete")?;
    state.app.delete_configuration(&authorized.caller, configuration_id(&of.id)?).await?;
    Ok(Accepted(None))
}
