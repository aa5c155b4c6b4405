//! What a project may have, and how often it may ask.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use super::ApiState;
use super::auth::Authorized;
use crate::error::Result;

/// Requests a minute, as Trove announces them. They are not enforced yet.
const RATE: u32 = 200;

/// `GET /limits`: the absolute ones first, as clients expect.
pub(super) async fn show(State(state): State<ApiState>, authorized: Authorized) -> Result<Json<Value>> {
    authorized.may("limits:index")?;
    let limits = state.app.limits();
    let now = time::OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let next = now.format(&Rfc3339).unwrap_or_default();
    let mut rows = vec![json!({
        "verb": "ABSOLUTE", "max_instances": limits.instances, "max_ram": limits.ram_mib,
        "max_volumes": limits.volumes_gib, "max_backups": limits.backups})];
    for (verb, uri, regex) in [
        ("POST", "*", ".*"),
        ("PUT", "*", ".*"),
        ("DELETE", "*", ".*"),
        ("GET", "*", ".*"),
        ("POST", "*/mgmt", "^/mgmt"),
    ] {
        rows.push(json!({
            "verb": verb, "uri": uri, "regex": regex, "value": RATE, "remaining": RATE, "unit": "MINUTE",
            "nextAvailable": next}));
    }
    Ok(Json(json!({"limits": rows})))
}
