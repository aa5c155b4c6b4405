//! `GET /configurations`.

use axum::extract::State;

use super::view::{ConfigurationsPage, summary};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::Json;
use crate::api::http::paging::Paging;
use crate::error::Result;

/// List the configuration groups of the project
///
/// Of all projects, for administrators. By id.
#[utoipa::path(
    get,
    path = "/configurations",
    tag = "configurations",
    operation_id = "list_configurations",
    params(Paging)
)]
pub(in crate::api) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    paging: Paging,
) -> Result<Json<ConfigurationsPage>> {
    authorized.may("configuration:index")?;
    let page = state.app.list_configurations(&authorized.caller, paging.request()).await?;
    let links = paging.next(&state.app.config.public_url(), page.next.as_deref());
    let configurations = page.items.iter().map(summary).collect();
    Ok(Json(ConfigurationsPage { configurations, configurations_links: links.clone(), links }))
}
