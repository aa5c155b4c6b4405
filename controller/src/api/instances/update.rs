//! `PUT` and `PATCH /instances/{id}`: renaming; the other changes come later.

use axum::extract::State;
use axum::response::Response;

use super::instance_id;
use crate::api::ApiState;
use crate::api::auth::Authorized;
use crate::api::body::{Body, Path};
use crate::api::fault::accepted;
use crate::api::schema::Field;
use crate::error::{Error, Result};

/// Changes of Trove's that are not built yet.
const LATER: &[&str] = &["replica_of", "slave_of", "configuration", "datastore_version", "access"];

/// 202.
pub(in crate::api) async fn update(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
    Body(body): Body,
) -> Result<Response> {
    authorized.may("instance:update")?;
    let field = Field::of(&body, "instance");
    field.only(&["name", "replica_of", "slave_of", "configuration", "datastore_version", "access"])?;
    let id = instance_id(&id)?;
    let given: Vec<&str> = LATER.iter().copied().filter(|name| field.part(name).there()).collect();
    if given.len() > 1 {
        return Err(Error::BadRequest(format!(
            "Validation error: instance has {}: one change at a time.",
            given.join(" and ")
        )));
    }
    // An empty object means: detach the configuration group, of which there are none yet.
    if let Some(name) = given.first().copied().or((!field.part("name").there()).then_some("configuration")) {
        state.app.get_instance(&authorized.caller, id).await?;
        return Err(Error::NotImplemented(format!("Changing {name} of an instance is not built yet.")));
    }
    state.app.rename_instance(&authorized.caller, id, &field.part("name").name()?).await?;
    Ok(accepted())
}
