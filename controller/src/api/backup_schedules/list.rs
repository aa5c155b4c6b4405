//! `GET /backup_schedules`.

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::view::{SchedulesPage, view};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Query};
use crate::api::http::fields::Flag;
use crate::api::http::paging::Paging;
use crate::app::backup_schedules::ListedSchedules;
use crate::error::Result;
use crate::ids::ProjectId;

#[derive(Deserialize, IntoParams)]
pub(in crate::api) struct Wanted {
    /// Of this instance alone.
    instance_id: Option<String>,
    /// Of this project alone; for administrators.
    project_id: Option<String>,
    /// Of all projects; for administrators.
    #[param(inline)]
    all_projects: Option<Flag>,
}

/// List the schedules of backups of the project
///
/// By id.
#[utoipa::path(
    get,
    path = "/backup_schedules",
    tag = "backups",
    operation_id = "list_backup_schedules",
    params(Wanted, Paging)
)]
pub(in crate::api) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    paging: Paging,
    Query(wanted): Query<Wanted>,
) -> Result<Json<SchedulesPage>> {
    authorized.may("backup_schedule:index")?;
    let wanted = ListedSchedules {
        all_projects: wanted.all_projects.is_some_and(|all| all.0),
        project: wanted.project_id.map(ProjectId).filter(|project| *project != authorized.caller.project),
        instance: wanted.instance_id,
    };
    if wanted.all_projects || wanted.project.is_some() {
        authorized.may("backup:index:all_projects")?;
    }
    let page = state.app.list_backup_schedules(&authorized.caller, &wanted, paging.request()).await?;
    let links = paging.next(&state.app.config.public_url(), page.next.as_deref());
    let backup_schedules = page.items.iter().map(view).collect();
    Ok(Json(SchedulesPage { backup_schedules, backup_schedules_links: links.clone(), links }))
}
