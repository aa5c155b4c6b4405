//! `GET /backup_strategies`.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{StrategyView, Wanted};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Query};
use crate::error::Result;

/// Backup strategies.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct Strategies {
    backup_strategies: Vec<StrategyView>,
}

/// List backup strategies
#[utoipa::path(
    get,
    path = "/backup_strategies",
    tag = "backups",
    operation_id = "list_backup_strategies",
    params(Wanted)
)]
pub(in crate::api) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Strategies>> {
    authorized.may("backup_strategy:index")?;
    let project = wanted.project(&authorized)?;
    let found = state.app.list_backup_strategies(&project, wanted.instance_id.as_deref()).await?;
    Ok(Json(Strategies { backup_strategies: found.iter().map(StrategyView::from).collect() }))
}
