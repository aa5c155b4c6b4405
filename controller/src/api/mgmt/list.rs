//! Lists the instances of all projects.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ManagedInstance;
use crate::api::ApiState;
use crate::api::http::auth::Administrator;
use crate::api::http::body::{Json, Query};
use crate::api::http::fields::Flag;
use crate::api::http::links::Link;
use crate::api::http::paging::Paging;
use crate::app::instances::Deleted;
use crate::error::Result;
use crate::ids::ProjectId;

#[derive(Deserialize, IntoParams)]
pub(in crate::api) struct Wanted {
    /// Of this project alone.
    project_id: Option<String>,
    /// Deleted ones, or those that are not; both where nothing is said.
    #[param(inline)]
    deleted: Option<Flag>,
}

/// A page of instances of all projects.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ManagedInstancesPage {
    instances: Vec<ManagedInstance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instances_links: Option<Vec<Link>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<Vec<Link>>,
}

/// List the instances of all projects
///
/// By last change, the last one first; the marker is an offset, and `limit` has no upper bound.
#[utoipa::path(
    get,
    path = "/mgmt/instances",
    tag = "management",
    operation_id = "list_all_instances",
    params(Wanted, Paging)
)]
pub(in crate::api) async fn list(
    State(state): State<ApiState>,
    Administrator(authorized): Administrator,
    paging: Paging,
    Query(wanted): Query<Wanted>,
) -> Result<Json<ManagedInstancesPage>> {
    let (offset, limit) = paging.offset()?;
    let project = wanted.project_id.map(ProjectId);
    let deleted = match wanted.deleted {
        None => Deleted::Included,
        Some(Flag(true)) => Deleted::Only,
        Some(Flag(false)) => Deleted::Excluded,
    };
    let found = state.app.list_all_instances(project.as_ref(), deleted, offset, limit).await?;
    let base = state.app.config.public_url();
    let full = found.len() as u64 == u64::from(limit);
    let next = full.then(|| (offset + u64::from(limit)).to_string());
    let project = &authorized.caller.project;
    let instances = found.iter().map(|instance| ManagedInstance::of(&base, project, instance)).collect();
    let links = paging.next(&base, next.as_deref());
    Ok(Json(ManagedInstancesPage { instances, instances_links: links.clone(), links }))
}
