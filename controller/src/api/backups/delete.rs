//! `DELETE /backups/{id}`.

use axum::extract::State;

use super::{OfBackup, backup_id};
use crate::api::ApiState;
use crate::api::http::answer::Accepted;
use crate::api::http::auth::Authorized;
use crate::api::http::body::Path;
use crate::api::http::fault::Fault;
use crate::error::Result;

/// Delete a backup
///
/// It is DELETING until its data are removed.
#[utoipa::path(delete, path = "/backups/{id}", tag = "backups", operation_id = "delete_backup",
    params(OfBackup), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn delete(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfBackup>,
) -> Result<Accepted> {
    authorized.may("backup:delete")?;
    state.app.delete_backup(&authorized.caller, backup_id(&of.id)?).await?;
    Ok(Accepted(None))
}
