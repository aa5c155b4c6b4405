//! Sizes that can be ordered.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Authorized;
use super::body::Path;
use super::links::links;
use crate::app::instances::Flavor;
use crate::error::Result;
use crate::ids::ProjectId;

/// A flavor. Its `id` is a number where it looks like one, else null with the real one in `str_id`.
pub(super) fn view(base: &str, project: &ProjectId, flavor: &Flavor) -> Value {
    let number = flavor.id.parse::<u32>().ok().filter(|number| number.to_string() == flavor.id);
    json!({
        "id": number, "str_id": flavor.id, "name": flavor.name, "ram": flavor.ram_mib, "vcpus": flavor.vcpus,
        "disk": 0, "ephemeral": 0, "links": links(base, project, &format!("flavors/{}", flavor.id))})
}

/// `GET /flavors`.
pub(super) async fn list(State(state): State<ApiState>, authorized: Authorized) -> Result<Json<Value>> {
    authorized.may("flavor:index")?;
    let base = state.app.config.public_url();
    let project = &authorized.caller.project;
    let flavors: Vec<Value> = state.app.list_flavors().iter().map(|flavor| view(&base, project, flavor)).collect();
    Ok(Json(json!({"flavors": flavors})))
}

/// `GET /flavors/{id}`.
pub(super) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>> {
    authorized.may("flavor:show")?;
    let base = state.app.config.public_url();
    Ok(Json(json!({"flavor": view(&base, &authorized.caller.project, state.app.get_flavor(&id)?)})))
}
