//! `PUT` and `PATCH /instances/{id}`: renaming; the other changes come later.

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
use crate::api::http::fields::{Name, there};
use crate::error::{Error, Result};

/// A part that is there, with whatever value.
type Given = Option<Option<IgnoredAny>>;

/// A change of an instance: one at a time, of which only `name` is built yet.
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
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Value>)]
    configuration: Given,
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Value>)]
    datastore_version: Given,
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Value>)]
    access: Given,
}

impl InstanceChange {
    /// The names of what comes later.
    fn later(&self) -> Vec<&'static str> {
        let all = [
            ("replica_of", self.replica_of),
            ("slave_of", self.slave_of),
            ("configuration", self.configuration),
            ("datastore_version", self.datastore_version),
            ("access", self.access),
        ];
        all.into_iter().filter_map(|(name, given)| given.map(|_| name)).collect()
    }
}

#[derive(Deserialize, ToSchema)]
pub(in crate::api) struct ChangedInstance {
    instance: InstanceChange,
}

/// Rename an instance
#[utoipa::path(put, path = "/instances/{id}", tag = "instances", operation_id = "update_instance", params(OfInstance),
    responses(Fault<404>, Fault<501>))]
pub(in crate::api) async fn update(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
    Json(ChangedInstance { instance: change }): Json<ChangedInstance>,
) -> Result<Accepted> {
    authorized.may("instance:update")?;
    let id = instance_id(&of.id)?;
    let later = change.later();
    if later.len() > 1 {
        return Err(Error::BadRequest(format!(
            "Validation error: instance has {}: one change at a time.",
            later.join(" and ")
        )));
    }
    // An empty object means: detach the configuration group, of which there are none yet.
    let (None, Some(Name(name))) = (later.first(), change.name) else {
        state.app.get_instance(&authorized.caller, id).await?;
        let name = later.first().unwrap_or(&"configuration");
        return Err(Error::NotImplemented(format!("Changing {name} of an instance is not built yet.")));
    };
    state.app.rename_instance(&authorized.caller, id, &name).await?;
    Ok(Accepted(None))
}

/// Rename an instance, as PUT does
#[utoipa::path(patch, path = "/instances/{id}", tag = "instances", operation_id = "patch_instance",
    params(OfInstance), responses(Fault<404>, Fault<501>))]
pub(in crate::api) async fn patch(
    state: State<ApiState>,
    authorized: Authorized,
    path: Path<OfInstance>,
    body: Json<ChangedInstance>,
) -> Result<Accepted> {
    update(state, authorized, path, body).await
}
