//! What a project may have, and how often it may ask.

use std::time::Instant;

use axum::extract::State;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

use super::ApiState;
use super::http::auth::Authorized;
use super::http::body::Json;
use super::http::rates::Kind;
use crate::app::quotas::Resource;
use crate::error::Result;

#[derive(Serialize, ToSchema)]
pub(super) struct LimitsBody {
    limits: Vec<LimitView>,
}

/// The first one has the verb ABSOLUTE and what the project may have, the others how often it may ask.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum LimitView {
    Absolute(AbsoluteLimit),
    Rate(RateLimit),
}

/// What the project may have; -1 is unlimited.
#[derive(Serialize, ToSchema)]
struct AbsoluteLimit {
    verb: &'static str,
    max_instances: i64,
    /// MiB.
    max_ram: i64,
    /// GiB.
    max_volumes: i64,
    max_backups: i64,
    /// Ours.
    max_configurations: i64,
}

/// How often the project may ask.
#[derive(Serialize, ToSchema)]
struct RateLimit {
    verb: &'static str,
    uri: &'static str,
    regex: &'static str,
    value: u32,
    remaining: u32,
    unit: &'static str,
    /// When the next request may come.
    #[serde(rename = "nextAvailable")]
    next_available: String,
}

/// Show quotas and rates
///
/// The absolute ones first, as clients expect; then the rates that are limited.
#[utoipa::path(get, path = "/limits", tag = "quotas", operation_id = "show_limits")]
pub(super) async fn show(State(state): State<ApiState>, authorized: Authorized) -> Result<Json<LimitsBody>> {
    authorized.may("limits:index")?;
    let project = &authorized.caller.project;
    let mut absolute = AbsoluteLimit {
        verb: "ABSOLUTE",
        max_instances: 0,
        max_ram: 0,
        max_volumes: 0,
        max_backups: 0,
        max_configurations: 0,
    };
    for quota in state.app.quotas(&authorized.caller, project).await? {
        *match quota.resource {
            Resource::Instances => &mut absolute.max_instances,
            Resource::Ram => &mut absolute.max_ram,
            Resource::Volumes => &mut absolute.max_volumes,
            Resource::Backups => &mut absolute.max_backups,
            Resource::Configurations => &mut absolute.max_configurations,
        } = quota.limit;
    }
    let mut limits = vec![LimitView::Absolute(absolute)];
    let (now, time) = (Instant::now(), OffsetDateTime::now_utc());
    for kind in Kind::ALL {
        let Some(left) = state.rates.left(project, kind, now) else { continue };
        let (verb, uri, regex) = kind.shown();
        let next = (time + left.wait).replace_nanosecond(0).ok().and_then(|next| next.format(&Rfc3339).ok());
        limits.push(LimitView::Rate(RateLimit {
            verb,
            uri,
            regex,
            value: left.value,
            remaining: left.remaining,
            unit: "MINUTE",
            next_available: next.unwrap_or_default(),
        }));
    }
    Ok(Json(LimitsBody { limits }))
}
