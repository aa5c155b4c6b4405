//! Shows an instance of any project.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ManagedInstance;
use crate::api::ApiState;
use crate::api::http::auth::Administrator;
use crate::api::http::body::{Json, Path, Query};
use crate::api::http::fault::Fault;
use crate::api::http::fields::Flag;
use crate::api::http::links::Time;
use crate::api::instances::{OfInstance, instance_id};
use crate::error::Result;

#[derive(Deserialize, IntoParams)]
pub(in crate::api) struct AlsoDeleted {
    /// Also a deleted one.
    #[param(inline)]
    deleted: Option<Flag>,
}

#[derive(Serialize, ToSchema)]
struct GuestStatus {
    state_description: &'static str,
}

/// A single instance with what administrators see of it.
#[derive(Serialize, ToSchema)]
struct ManagedInstanceDetail {
    #[serde(flatten)]
    instance: ManagedInstance,
    guest_status: GuestStatus,
    /// When, if it is enabled.
    root_enabled: Option<Time>,
    /// By which user id.
    root_enabled_by: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ManagedInstanceBody {
    instance: ManagedInstanceDetail,
}

/// Show an instance of any project
#[utoipa::path(get, path = "/mgmt/instances/{id}", tag = "management", operation_id = "show_any_instance",
    params(AlsoDeleted, OfInstance), responses(Fault<404>))]
pub(in crate::api) async fn show(
    State(state): State<ApiState>,
    Administrator(authorized): Administrator,
    Query(also): Query<AlsoDeleted>,
    Path(of): Path<OfInstance>,
) -> Result<Json<ManagedInstanceBody>> {
    let deleted = also.deleted.is_some_and(|flag| flag.0);
    let instance = state.app.get_any_instance(instance_id(&of.id)?, deleted).await?;
    let base = state.app.config.public_url();
    let root = instance.root_enabled.clone();
    let view = ManagedInstanceDetail {
        guest_status: GuestStatus { state_description: instance.service.tag() },
        root_enabled: root.as_ref().map(|(at, _)| Time::from(*at)),
        root_enabled_by: root.map(|(_, user)| user),
        instance: ManagedInstance::of(&base, &authorized.caller.project, &instance),
    };
    Ok(Json(ManagedInstanceBody { instance: view }))
}
