//! `GET /backups` and `GET /instances/{id}/backups`.

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::view::{BackupsPage, view};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path, Query};
use crate::api::http::fault::Fault;
use crate::api::http::fields::Flag;
use crate::api::http::paging::Paging;
use crate::api::instances::{OfInstance, instance_id};
use crate::app::backups::{Backup, ListedBackups};
use crate::error::Result;
use crate::ids::ProjectId;

#[derive(Deserialize, IntoParams)]
pub(in crate::api) struct Wanted {
    /// Of the datastore with this name or id alone.
    datastore: Option<String>,
    /// Of this instance alone, also when it is deleted.
    instance_id: Option<String>,
    /// Of this project alone; for administrators.
    project_id: Option<String>,
    /// Of all projects; for administrators.
    #[param(inline)]
    all_projects: Option<Flag>,
}

/// The views, and the link to the next page: there may be one when this one is full.
fn page(state: &ApiState, paging: &Paging, found: &[Backup], offset: u64, limit: u32) -> BackupsPage {
    let full = found.len() as u64 == u64::from(limit);
    let next = full.then(|| (offset + u64::from(limit)).to_string());
    let links = paging.next(&state.app.config.public_url(), next.as_deref());
    BackupsPage { backups: found.iter().map(view).collect(), backups_links: links.clone(), links }
}

/// List the backups of the project
///
/// By last change, the last one first; the marker is an offset, and `limit` has no upper bound.
#[utoipa::path(get, path = "/backups", tag = "backups", operation_id = "list_backups", params(Wanted, Paging))]
pub(in crate::api) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    paging: Paging,
    Query(wanted): Query<Wanted>,
) -> Result<Json<BackupsPage>> {
    authorized.may("backup:index")?;
    let wanted = ListedBackups {
        all_projects: wanted.all_projects.is_some_and(|all| all.0),
        project: wanted.project_id.map(ProjectId).filter(|project| *project != authorized.caller.project),
        instance: wanted.instance_id,
        datastore: wanted.datastore,
    };
    if wanted.all_projects || wanted.project.is_some() {
        authorized.may("backup:index:all_projects")?;
    }
    let (offset, limit) = paging.offset()?;
    let found = state.app.list_backups(&authorized.caller, &wanted, offset, limit).await?;
    Ok(Json(page(&state, &paging, &found, offset, limit)))
}

/// List the backups of an instance
///
/// As the list of the project.
#[utoipa::path(get, path = "/instances/{id}/backups", tag = "backups", operation_id = "list_instance_backups",
    params(OfInstance, Paging), responses(Fault<404>))]
pub(in crate::api) async fn of_instance(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
    paging: Paging,
) -> Result<Json<BackupsPage>> {
    authorized.may("instance:backups")?;
    let (offset, limit) = paging.offset()?;
    let id = instance_id(&of.id)?;
    let found = state.app.list_instance_backups(&authorized.caller, id, offset, limit).await?;
    Ok(Json(page(&state, &paging, &found, offset, limit)))
}
