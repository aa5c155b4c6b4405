//! `POST /instances/{id}/action`: the body is one action.

use axum::extract::State;
use axum::response::Response;
use serde_json::Value;

use super::instance_id;
use crate::api::ApiState;
use crate::api::auth::Authorized;
use crate::api::body::{Body, Path};
use crate::api::fault::{accepted, accepted_as};
use crate::api::schema::Field;
use crate::error::{Error, Result};

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

const LATER: &[&str] = &["promote_to_replica_source", "eject_replica_source"];

impl InstanceAction {
    /// The action of a body; of several known ones the last wins, as in Trove.
    fn parse(body: &Value) -> Result<Self> {
        let wrong = |text: &str| Error::BadRequest(format!("Validation error: {text}."));
        let object = body.as_object().ok_or_else(|| wrong("the action must be an object"))?;
        if object.is_empty() {
            return Err(wrong("the action is empty: it must be one of restart, resize, reset_status"));
        }
        let mut action = None;
        for (name, value) in object {
            if !value.is_null() && !value.is_object() {
                return Err(wrong(&format!("{} must be an object", crate::app::names::shown(name))));
            }
            action = match name.as_str() {
                "restart" => Some(Self::Restart),
                "resize" => Some(Self::resize(&Field::of(body, "resize"))?),
                "reset_status" => Some(Self::ResetStatus { force_delete: value.get("force_delete").is_some() }),
                other => LATER.iter().find(|later| **later == other).map(|later| Self::Later(later)).or(action),
            };
        }
        action.ok_or_else(|| wrong("the action is not known: it must be one of restart, resize, reset_status"))
    }

    /// `{"flavorRef": …}`, `{"volume": {"size": …}}` or openstacksdk's `{"volume": …}`: one of them.
    fn resize(resize: &Field<'_>) -> Result<Self> {
        resize.only(&["flavorRef", "volume"])?;
        let (flavor, volume) = (resize.part("flavorRef"), resize.part("volume"));
        match (flavor.given(), volume.given()) {
            (true, false) => flavor.reference().map(Self::ResizeFlavor),
            (false, true) if volume.object().is_ok() => volume.part("size").size().map(Self::ResizeVolume),
            (false, true) => volume.size().map(Self::ResizeVolume),
            _ => Err(Error::BadRequest("Validation error: resize needs either flavorRef or volume.".to_owned())),
        }
    }
}

/// 202.
pub(in crate::api) async fn act(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
    Body(body): Body,
) -> Result<Response> {
    let action = InstanceAction::parse(&body)?;
    let (caller, id) = (&authorized.caller, instance_id(&id)?);
    match action {
        InstanceAction::Restart => {
            authorized.may("instance:restart")?;
            Ok(accepted_as(&state.app.restart_instance(caller, &authorized.request_id, id).await?))
        }
        InstanceAction::ResizeFlavor(flavor) => {
            authorized.may("instance:resize_flavor")?;
            Ok(accepted_as(&state.app.resize_flavor(caller, &authorized.request_id, id, &flavor).await?))
        }
        InstanceAction::ResizeVolume(size) => {
            authorized.may("instance:resize_volume")?;
            Ok(accepted_as(&state.app.resize_volume(caller, &authorized.request_id, id, size).await?))
        }
        InstanceAction::ResetStatus { force_delete } => {
            authorized.may(if force_delete { "instance:force_delete" } else { "instance:reset_status" })?;
            state.app.reset_status(caller, id).await?;
            Ok(accepted())
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

    #[test]
    fn bodies_are_actions() {
        for (body, action) in [
            (json!({"restart": {}}), Some(InstanceAction::Restart)),
            (json!({"restart": null}), Some(InstanceAction::Restart)),
            (json!({"reset_status": {}}), Some(InstanceAction::ResetStatus { force_delete: false })),
            (json!({"reset_status": {"force_delete": true}}), Some(InstanceAction::ResetStatus { force_delete: true })),
            (json!({"resize": {"volume": {"size": 2}}}), Some(InstanceAction::ResizeVolume(2))),
            (json!({"resize": {"volume": {"size": "2"}}}), Some(InstanceAction::ResizeVolume(2))),
            (json!({"resize": {"volume": 5}}), Some(InstanceAction::ResizeVolume(5))),
            (json!({"resize": {"volume": 0}}), None),
            (json!({"resize": {"flavorRef": 3}}), Some(InstanceAction::ResizeFlavor("3".to_owned()))),
            (
                json!({"resize": {"flavorRef": "http://h/v1.0/p/flavors/3"}}),
                Some(InstanceAction::ResizeFlavor("3".to_owned())),
            ),
            (json!({"resize": {"flavorRef": "3", "volume": 5}}), None),
            (json!({"resize": {"size": 5}}), None),
            (json!({"resize": {}}), None),
            (json!({"promote_to_replica_source": {}}), Some(InstanceAction::Later("promote_to_replica_source"))),
            (json!({}), None),
            (json!([]), None),
            (json!(null), None),
            (json!({"restart": 5}), None),
            (json!({"explode": {}}), None),
        ] {
            assert_eq!(InstanceAction::parse(&body).ok(), action, "{body}");
        }
    }
}
