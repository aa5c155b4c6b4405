//! `PUT` and `PATCH /instances/{id}`: renaming, another version, attaching and detaching a configuration group; the other
//! changes come later.

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
use crate::api::http::fields::{Name, Reference, there};
use crate::app::instances::Edit;
use crate::error::{Error, Result};

/// A part that is there, with whatever value.
type Given = Option<Option<IgnoredAny>>;

/// A change of an instance: a name, whether it cannot be deleted, and one of the others, of which `datastore_version` and `configuration` are built yet.
/// No change at all detaches the configuration group.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct InstanceChange {
    name: Option<Name>,
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Value>)]
    replica_of: Given,
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Value>)]
    slave_of: Given,
    /// The configuration group to attach; null detaches it.
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Reference>)]
    configuration: Option<Option<Reference>>,
    /// The version, by name or id, that it is upgraded to.
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Name)]
    datastore_version: Option<Option<Name>>,
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Value>)]
    access: Given,
    /// Whether it cannot be deleted. Not in Trove.
    deletion_protection: Option<bool>,
}

impl InstanceChange {
    /// The names of what comes later.
    fn later(&self) -> Vec<&'static str> {
        let all = [("replica_of", self.replica_of), ("slave_of", self.slave_of), ("access", self.access)];
        all.into_iter().filter_map(|(name, given)| given.map(|_| name)).collect()
    }
}

#[derive(Deserialize, ToSchema)]
pub(in crate::api) struct ChangedInstance {
    instance: InstanceChange,
}

/// Rename an instance, protect it from deletion, upgrade it, or attach or detach a configuration group
#[utoipa::path(put, path = "/instances/{id}", tag = "instances", operation_id = "update_instance", params(OfInstance),
    responses(Fault<404>, Fault<422>, Fault<501>))]
pub(in crate::api) async fn update(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
    Json(ChangedInstance { instance: change }): Json<ChangedInstance>,
) -> Result<Accepted> {
    authorized.may("instance:update")?;
    let id = instance_id(&of.id)?;
    let later = change.later();
    let mut changes = later.clone();
    changes.extend(change.datastore_version.is_some().then_some("datastore_version"));
    changes.extend(change.configuration.is_some().then_some("configuration"));
    if changes.len() > 1 {
        return Err(Error::BadRequest(format!(
            "Validation error: instance has {}: one change at a time.",
            changes.join(" and ")
        )));
    }
    if let Some(later) = later.first() {
        state.app.get_instance(&authorized.caller, id).await?;
        return Err(Error::NotImplemented(format!("Changing {later} of an instance is not built yet.")));
    }
    let (app, caller, request) = (&state.app, &authorized.caller, &authorized.request_id);
    // An empty object means: detach the configuration group.
    let is_empty = changes.is_empty() && change.name.is_none() && change.deletion_protection.is_none();
    let configuration = change.configuration.or_else(|| is_empty.then_some(None));
    let accepted = match (change.datastore_version, configuration) {
        (Some(Some(version)), _) => Some(app.upgrade_instance(caller, request, id, &version.0).await?),
        (Some(None), _) => {
            let reason = "Validation error: instance.datastore_version must be a name or an id.";
            return Err(Error::BadRequest(reason.to_owned()));
        }
        (None, Some(Some(wanted))) => Some(app.attach_configuration(caller, request, id, &wanted.0).await?),
        (None, Some(None)) => app.detach_configuration(caller, request, id).await?,
        (None, None) => None,
    };
    let edit = Edit {
        name: change.name.as_ref().map(|name| name.0.as_str()),
        deletion_protection: change.deletion_protection,
    };
    if edit.name.is_some() || edit.deletion_protection.is_some() {
        app.edit_instance(caller, id, edit).await?;
    }
    Ok(Accepted(accepted.map(|accepted| accepted.operation)))
}

/// Change an instance, as PUT does
#[utoipa::path(patch, path = "/instances/{id}", tag = "instances", operation_id = "patch_instance",
    params(OfInstance), responses(Fault<404>, Fault<422>, Fault<501>))]
pub(in crate::api) async fn patch(
    state: State<ApiState>,
    authorized: Authorized,
    path: Path<OfInstance>,
    body: Json<ChangedInstance>,
) -> Result<Accepted> {
    update(state, authorized, path, body).await
}
