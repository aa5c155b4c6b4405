//! `GET /backups/{id}`.

use axum::extract::State;

use super::view::{BackupBody, view};
use super::{OfBackup, backup_id};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::error::Result;

/// Show a backup
#[utoipa::path(get, path = "/backups/{id}", tag = "backups", operation_id = "show_backup",
    params(OfBackup), responses(Fault<404>))]
pub(in crate::api) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfBackup>,
) -> Result<Json<BackupBody>> {
    authorized.may("backup:show")?;
    let backup = state.app.get_backup(&authorized.caller, backup_id(&of.id)?).await?;
    Ok(Json(BackupBody { backup: view(&backup) }))
}
