//! Shows who has enabled root.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::ApiState;
use crate::api::http::auth::Administrator;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::http::links::Time;
use crate::api::instances::{OfInstance, instance_id};
use crate::error::Result;

/// When root was last enabled, and by which user id.
#[derive(Serialize, ToSchema)]
struct RootHistory {
    id: Uuid,
    /// A time, or `Never`.
    enabled: String,
    /// A user id, or `Nobody`.
    user: String,
}

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct RootHistoryBody {
    root_history: RootHistory,
}

/// Show when root was last enabled, and by whom
#[utoipa::path(get, path = "/mgmt/instances/{id}/root", tag = "management", operation_id = "show_root_history",
    params(OfInstance), responses(Fault<404>))]
pub(in crate::api) async fn show_root(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path(of): Path<OfInstance>,
) -> Result<Json<RootHistoryBody>> {
    let id = instance_id(&of.id)?;
    let (enabled, user) = match state.app.root_history(id).await? {
        Some((at, user)) => (Time::from(at).to_string(), user),
        None => ("Never".to_owned(), "Nobody".to_owned()),
    };
    Ok(Json(RootHistoryBody { root_history: RootHistory { id: id.0, enabled, user } }))
}
