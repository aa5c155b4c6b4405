//! `GET /instances` and `GET /instances/detail`.

use axum::extract::State;

use super::view::{self, DetailedInstancesPage, InstancesPage, Viewer};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::Json;
use crate::api::http::links::Link;
use crate::api::http::paging::Paging;
use crate::app::instances::Instance;
use crate::error::Result;

/// The views of a page, and the link to the next one.
async fn list<T>(
    state: &ApiState,
    authorized: &Authorized,
    paging: &Paging,
    draw: fn(&Viewer<'_>, &Instance) -> T,
) -> Result<(Vec<T>, Option<Vec<Link>>)> {
    let page = state.app.list_instances(&authorized.caller.project, paging.request()).await?;
    let base = state.app.config.public_url();
    let (project, admin) = (&authorized.caller.project, authorized.caller.is_admin());
    let viewer = Viewer { base: &base, project, admin };
    let instances = page.items.iter().map(|instance| draw(&viewer, instance)).collect();
    Ok((instances, paging.next(&base, page.next.as_deref())))
}

/// List the instances of the project
#[utoipa::path(get, path = "/instances", tag = "instances", operation_id = "list_instances", params(Paging))]
pub(in crate::api) async fn summary(
    State(state): State<ApiState>,
    authorized: Authorized,
    paging: Paging,
) -> Result<Json<InstancesPage>> {
    authorized.may("instance:index")?;
    let (instances, links) = list(&state, &authorized, &paging, view::summary).await?;
    Ok(Json(InstancesPage { instances, instances_links: links.clone(), links }))
}

/// List the instances of the project with more of each
#[utoipa::path(
    get,
    path = "/instances/detail",
    tag = "instances",
    operation_id = "list_instances_with_details",
    params(Paging)
)]
pub(in crate::api) async fn detail(
    State(state): State<ApiState>,
    authorized: Authorized,
    paging: Paging,
) -> Result<Json<DetailedInstancesPage>> {
    authorized.may("instance:detail")?;
    let (instances, links) = list(&state, &authorized, &paging, view::detail).await?;
    Ok(Json(DetailedInstancesPage { instances, instances_links: links.clone(), links }))
}
