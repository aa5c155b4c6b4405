//! How to connect to an instance: ours, beyond Trove.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Authorized;
use super::body::Path;
use super::instances::instance_id;
use crate::error::{Error, Result};

/// `GET /instances/{id}/connection`.
pub(super) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>> {
    authorized.may("instance:show")?;
    let (instance, manifest) = state.app.get_instance_with_manifest(&authorized.caller, instance_id(&id)?).await?;
    let none = || Error::Unprocessable(format!("Instance {id} has no address yet."));
    let address = instance.address.ok_or_else(none)?;
    Ok(Json(json!({"connection": {
        "address": address, "port": instance.port, "tls_port": manifest.identity.tls_port, "ca_pem": &*state.engines_authority_pem,
        "client": manifest.identity.client, "database": null}})))
}
