//! Acts on an instance of any project.

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::ApiState;
use crate::api::http::answer::Accepted;
use crate::api::http::auth::Administrator;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::http::fields::{Nothing, there};
use crate::api::instances::{OfInstance, instance_id};
use crate::error::{Error, Result};

/// Exactly one action by its name. `migrate` is not built yet.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schema(min_properties = 1, max_properties = 1)]
pub(in crate::api) struct ManagementAction {
    /// Stops the engine.
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Nothing>)]
    stop: Option<Option<Nothing>>,
    /// Restarts the host.
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Nothing>)]
    reboot: Option<Option<Nothing>>,
    /// Clears the task, and nothing else.
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Nothing>)]
    reset_task_status: Option<Option<Nothing>>,
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Nothing>)]
    migrate: Option<Option<Nothing>>,
    /// Makes the host again from an image; the data stay.
    rebuild: Option<Rebuild>,
}

#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rebuild {
    /// Of a version of the instance's datastore, which the instance then has.
    image_id: Uuid,
}

impl ManagementAction {
    /// The names that are there.
    fn names(&self) -> Vec<&'static str> {
        let all = [
            ("stop", self.stop.is_some()),
            ("reboot", self.reboot.is_some()),
            ("reset-task-status", self.reset_task_status.is_some()),
            ("migrate", self.migrate.is_some()),
            ("rebuild", self.rebuild.is_some()),
        ];
        all.into_iter().filter_map(|(name, given)| given.then_some(name)).collect()
    }
}

/// Act on an instance of any project
#[utoipa::path(post, path = "/mgmt/instances/{id}/action", tag = "management", operation_id = "act_on_any_instance",
    params(OfInstance), responses(Fault<404>, Fault<422>, Fault<501>))]
pub(in crate::api) async fn act(
    State(state): State<ApiState>,
    Administrator(authorized): Administrator,
    Path(of): Path<OfInstance>,
    Json(action): Json<ManagementAction>,
) -> Result<Accepted> {
    let id = instance_id(&of.id)?;
    let (app, caller, request) = (&state.app, &authorized.caller, &authorized.request_id);
    match (&action.names()[..], action.rebuild) {
        (["rebuild"], Some(rebuild)) => {
            app.rebuild_instance(caller, request, id, rebuild.image_id).await.map(Accepted::from)
        }
        (["stop"], _) => app.stop_instance(caller, request, id).await.map(Accepted::from),
        (["reboot"], _) => app.reboot_instance(caller, request, id).await.map(Accepted::from),
        (["reset-task-status"], _) => app.reset_task_status(id).await.map(|()| Accepted(None)),
        ([name], _) => {
            app.get_any_instance(id, false).await?;
            Err(Error::NotImplemented(format!("The action {name} is not built yet.")))
        }
        _ => Err(Error::BadRequest(
            "Validation error: the action must be exactly one of stop, reboot, reset-task-status, migrate, rebuild."
                .to_owned(),
        )),
    }
}
