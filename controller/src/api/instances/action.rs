//! `POST /instances/{id}/action`: the body is one action.

use axum::extract::State;
use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::ToSchema;

use super::{OfInstance, instance_id};
use crate::api::ApiState;
use crate::api::http::answer::Accepted;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::http::fields::{NewSize, Nothing, Reference, there};
use crate::error::{Error, Result};

/// One action by its name. `promote_to_replica_source` and `eject_replica_source` are not built yet.
#[derive(Deserialize, ToSchema)]
#[schema(min_properties = 1)]
pub(in crate::api) struct Action {
    /// Restarts the engine.
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Nothing>)]
    restart: Option<Option<Nothing>>,
    resize: Option<Resize>,
    /// Clears the task.
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<ResetStatus>)]
    reset_status: Option<Option<ResetStatus>>,
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Nothing>)]
    promote_to_replica_source: Option<Option<Nothing>>,
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Nothing>)]
    eject_replica_source: Option<Option<Nothing>>,
}

/// Another flavor, or a greater volume.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Resize {
    #[serde(rename = "flavorRef")]
    flavor: Option<Reference>,
    volume: Option<NewSize>,
}

/// With `force_delete` it is the first part of a forced delete.
#[derive(Deserialize, ToSchema)]
struct ResetStatus {
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Value>)]
    force_delete: Option<Option<IgnoredAny>>,
}

/// What can be asked of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
enum InstanceAction {
    /// Restart the engine: when ACTIVE and not busy.
    Restart,
    /// Another flavor, by its id.
    ResizeFlavor(String),
    /// A greater volume, GiB.
    ResizeVolume(u64),
    /// Clear the task: always.
    ResetStatus {
        /// Part of a forced delete, which an owner may do.
        force_delete: bool,
    },
    /// One of Trove's that is not built yet.
    Later(&'static str),
}

impl TryFrom<Action> for InstanceAction {
    type Error = Error;

    fn try_from(action: Action) -> Result<Self> {
        let given = [
            action.restart.is_some(),
            action.resize.is_some(),
            action.reset_status.is_some(),
            action.promote_to_replica_source.is_some(),
            action.eject_replica_source.is_some(),
        ];
        if given.iter().filter(|given| **given).count() > 1 {
            return Err(Error::BadRequest("Validation error: there is more than one action: ask for one.".to_owned()));
        }
        if action.promote_to_replica_source.is_some() {
            return Ok(Self::Later("promote_to_replica_source"));
        }
        if action.eject_replica_source.is_some() {
            return Ok(Self::Later("eject_replica_source"));
        }
        if let Some(reset) = action.reset_status {
            return Ok(Self::ResetStatus { force_delete: reset.is_some_and(|reset| reset.force_delete.is_some()) });
        }
        if let Some(resize) = action.resize {
            return match (resize.flavor, resize.volume) {
                (Some(flavor), None) => Ok(Self::ResizeFlavor(flavor.0)),
                (None, Some(volume)) => Ok(Self::ResizeVolume(volume.0)),
                _ => Err(Error::BadRequest("Validation error: resize needs either flavorRef or volume.".to_owned())),
            };
        }
        let none = || "Validation error: the action must be one of restart, resize, reset_status.".to_owned();
        action.restart.map(|_| Self::Restart).ok_or_else(|| Error::BadRequest(none()))
    }
}

/// Act on an instance
///
/// Restarts the engine, resizes, or clears the task.
#[utoipa::path(post, path = "/instances/{id}/action", tag = "instances", operation_id = "act_on_instance",
    params(OfInstance), responses(Fault<404>, Fault<422>, Fault<501>))]
pub(in crate::api) async fn act(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
    Json(body): Json<Action>,
) -> Result<Accepted> {
    let action = InstanceAction::try_from(body)?;
    let (caller, id) = (&authorized.caller, instance_id(&of.id)?);
    match action {
        InstanceAction::Restart => {
            authorized.may("instance:restart")?;
            Ok(state.app.restart_instance(caller, &authorized.request_id, id).await?.into())
        }
        InstanceAction::ResizeFlavor(flavor) => {
            authorized.may("instance:resize_flavor")?;
            Ok(state.app.resize_flavor(caller, &authorized.request_id, id, &flavor).await?.into())
        }
        InstanceAction::ResizeVolume(size) => {
            authorized.may("instance:resize_volume")?;
            Ok(state.app.resize_volume(caller, &authorized.request_id, id, size).await?.into())
        }
        InstanceAction::ResetStatus { force_delete } => {
            authorized.may(if force_delete { "instance:force_delete" } else { "instance:reset_status" })?;
            state.app.reset_status(caller, id).await?;
            Ok(Accepted(None))
        }
        InstanceAction::Later(name) => {
            authorized.may("instance:update")?;
            state.app.get_instance(caller, id).await?;
            Err(Error::NotImplemented(format!("The action {name} is not built yet.")))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::http::form;

    #[test]
    fn bodies_are_actions() {
        for (body, action) in [
            (json!({"restart": {}}), Some(InstanceAction::Restart)),
            (json!({"restart": null}), Some(InstanceAction::Restart)),
            (json!({"reset_status": {}}), Some(InstanceAction::ResetStatus { force_delete: false })),
            (json!({"reset_status": null}), Some(InstanceAction::ResetStatus { force_delete: false })),
            (json!({"reset_status": {"force_delete": true}}), Some(InstanceAction::ResetStatus { force_delete: true })),
            (json!({"reset_status": {"force_delete": null}}), Some(InstanceAction::ResetStatus { force_delete: true })),
            (json!({"resize": {"volume": {"size": 2}}}), Some(InstanceAction::ResizeVolume(2))),
            (json!({"resize": {"volume": {"size": "2"}}}), Some(InstanceAction::ResizeVolume(2))),
            (json!({"resize": {"volume": 5}}), Some(InstanceAction::ResizeVolume(5))),
            (json!({"resize": {"volume": 0}}), None),
            (json!({"resize": {"volume": {}}}), None),
            (json!({"resize": {"flavorRef": 3}}), Some(InstanceAction::ResizeFlavor("3".to_owned()))),
            (
                json!({"resize": {"flavorRef": "http://h/v1.0/p/flavors/3"}}),
                Some(InstanceAction::ResizeFlavor("3".to_owned())),
            ),
            (json!({"resize": {"flavorRef": "3", "volume": 5}}), None),
            (json!({"resize": {"size": 5}}), None),
            (json!({"resize": {}}), None),
            (json!({"resize": null}), None),
            (json!({"promote_to_replica_source": {}}), Some(InstanceAction::Later("promote_to_replica_source"))),
            (json!({"explode": {}, "restart": {}}), Some(InstanceAction::Restart)),
            (json!({}), None),
            (json!([]), None),
            (json!(null), None),
            (json!({"restart": 5}), None),
            (json!({"explode": {}}), None),
        ] {
            let read = form::read::<Action>(body.clone()).and_then(InstanceAction::try_from);
            assert_eq!(read.ok(), action, "{body}");
        }
    }
}
