//! `GET /instances` and `GET /instances/detail`.

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use super::view::{self, Viewer};
use crate::api::ApiState;
use crate::api::auth::Authorized;
use crate::api::paging::Paging;
use crate::app::instances::Instance;
use crate::error::Result;

async fn list(
    state: &ApiState,
    authorized: &Authorized,
    paging: &Paging,
    draw: fn(&Viewer<'_>, &Instance) -> Value,
) -> Result<Json<Value>> {
    let page = state.app.list_instances(&authorized.caller.project, paging.request()).await?;
    let base = state.app.config.public_url();
    let (project, admin) = (&authorized.caller.project, authorized.caller.is_admin());
    let viewer = Viewer { base: &base, project, admin };
    Ok(Json(paging.page(&base, "instances", page, |instance| draw(&viewer, &instance))))
}

/// The summary view.
pub(in crate::api) async fn summary(
    State(state): State<ApiState>,
    authorized: Authorized,
    paging: Paging,
) -> Result<Json<Value>> {
    authorized.may("instance:index")?;
    list(&state, &authorized, &paging, view::summary).await
}

/// The detailed view.
pub(in crate::api) async fn detail(
    State(state): State<ApiState>,
    authorized: Authorized,
    paging: Paging,
) -> Result<Json<Value>> {
    authorized.may("instance:detail")?;
    list(&state, &authorized, &paging, view::detail).await
}
