//! `DELETE /backup_schedules/{id}`.

use axum::extract::State;

use super::{OfSchedule, schedule_id};
use crate::api::ApiState;
use crate::api::http::answer::NoContent;
use crate::api::http::auth::Authorized;
use crate::api::http::body::Path;
use crate::api::http::fault::Fault;
use crate::error::Result;

/// Delete a schedule of backups
///
/// Its backups stay, until a person deletes them.
#[utoipa::path(delete, path = "/backup_schedules/{id}", tag = "backups", operation_id = "delete_backup_schedule",
    params(OfSchedule), responses(Fault<404>))]
pub(in crate::api) async fn delete(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfSchedule>,
) -> Result<NoContent> {
    authorized.may("backup_schedule:delete")?;
    state.app.delete_backup_schedule(&authorized.caller, schedule_id(&of.id)?).await?;
    Ok(NoContent)
}
