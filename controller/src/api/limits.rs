//! What a project may have, and how often it may ask.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ApiState;
use super::auth::Authorized;
use super::rates::Kind;
use crate::error::Result;

/// `GET /limits`: the absolute ones first, as clients expect; then the rates that are limited.
pub(super) async fn show(State(state): State<ApiState>, authorized: Authorized) -> Result<Json<Value>> {
    authorized.may("limits:index")?;
    let project = &authorized.caller.project;
    let mut absolute = json!({"verb": "ABSOLUTE"});
    for quota in state.app.quotas(&authorized.caller, project).await? {
        absolute[format!("max_{}", quota.resource.tag())] = json!(quota.limit);
    }
    let mut rows = vec![absolute];
    let (now, time) = (Instant::now(), OffsetDateTime::now_utc());
    for kind in Kind::ALL {
        let Some(left) = state.rates.left(project, kind, now) else { continue };
        let (verb, uri, regex) = kind.shown();
        let next = (time + left.wait).replace_nanosecond(0).ok().and_then(|next| next.format(&Rfc3339).ok());
        rows.push(json!({
            "verb": verb, "uri": uri, "regex": regex, "value": left.value, "remaining": left.remaining,
            "unit": "MINUTE", "nextAvailable": next.unwrap_or_default()}));
    }
    Ok(Json(json!({"limits": rows})))
}
