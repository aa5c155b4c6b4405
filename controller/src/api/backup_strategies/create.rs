//! `POST /backup_strategies`: 202 with the view.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::StrategyView;
use crate::api::ApiState;
use crate::api::http::answer::Begun;
use crate::api::http::auth::Authorized;
use crate::api::http::body::Json;
use crate::api::http::fault::Fault;
use crate::api::http::fields::Name;
use crate::error::Result;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct StrategyOrder {
    backup_strategy: NewStrategy,
}

/// A backup strategy to be made, in the place of the one that was there.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewStrategy {
    swift_container: Name,
    /// Empty or left out: all instances that have none of their own.
    instance_id: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct StrategyBody {
    backup_strategy: StrategyView,
}

/// Make or replace a backup strategy
#[utoipa::path(post, path = "/backup_strategies", tag = "backups", operation_id = "create_backup_strategy",
    responses(Fault<404>))]
pub(in crate::api) async fn create(
    State(state): State<ApiState>,
    authorized: Authorized,
    Json(StrategyOrder { backup_strategy: new }): Json<StrategyOrder>,
) -> Result<Begun<StrategyBody>> {
    authorized.may("backup_strategy:create")?;
    let instance = new.instance_id.filter(|id| !id.is_empty());
    let container = new.swift_container.0;
    let strategy = state.app.put_backup_strategy(&authorized.caller, instance.as_deref(), container).await?;
    Ok(Begun(StrategyBody { backup_strategy: StrategyView::from(&strategy) }))
}
