//! `GET /backup_schedules/{id}`.

use axum::extract::State;

use super::view::{ScheduleBody, body};
use super::{OfSchedule, schedule_id};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::error::Result;

/// Show a schedule of backups
#[utoipa::path(get, path = "/backup_schedules/{id}", tag = "backups", operation_id = "show_backup_schedule",
    params(OfSchedule), responses(Fault<404>))]
pub(in crate::api) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfSchedule>,
) -> Result<Json<ScheduleBody>> {
    authorized.may("backup_schedule:show")?;
    Ok(Json(body(&state.app.get_backup_schedule(&authorized.caller, schedule_id(&of.id)?).await?)))
}
