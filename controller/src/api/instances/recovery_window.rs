//! `GET` and `PUT /instances/{id}/recovery-window`: points in time, which Trove does not have.

use std::time::Duration;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{OfInstance, instance_id};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::http::fields::there;
use crate::api::http::links::Time;
use crate::app::recovery;
use crate::error::{Error, Result};

/// Moments to which an instance can be restored, whole seconds.
#[derive(Serialize, ToSchema)]
struct RangeView {
    from: Time,
    until: Time,
}

/// To which moments an instance can be restored.
#[derive(Serialize, ToSchema)]
struct RecoveryWindow {
    /// For how long the log of writes is kept; null: it is not shipped.
    keep_seconds: Option<u64>,
    /// The oldest first. Between two of them the log has a gap. Empty until a full backup is complete that was begun after the
    /// log was.
    ranges: Vec<RangeView>,
    /// What was acknowledged before this is stored.
    covered: Option<Time>,
}

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct RecoveryWindowBody {
    recovery_window: RecoveryWindow,
}

fn body(window: recovery::RecoveryWindow) -> RecoveryWindowBody {
    // What is shown has whole seconds, each of which is inside.
    let whole = Duration::from_nanos(999_999_999);
    let range = |range: recovery::Range| RangeView { from: (range.from + whole).into(), until: range.until.into() };
    RecoveryWindowBody {
        recovery_window: RecoveryWindow {
            keep_seconds: window.keep.map(|keep| keep.as_secs()),
            ranges: window.ranges.into_iter().map(range).collect(),
            covered: window.covered.map(Into::into),
        },
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// From an hour to a year; null ships no longer.
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<u64>)]
    keep_seconds: Option<Option<u64>>,
}

#[derive(Deserialize, ToSchema)]
pub(in crate::api) struct WantedBody {
    recovery_window: Wanted,
}

/// Show to which moments an instance can be restored
///
/// Also of a deleted instance. Not in Trove.
#[utoipa::path(get, path = "/instances/{id}/recovery-window", tag = "instances", operation_id = "show_recovery_window",
    params(OfInstance), responses(Fault<404>))]
pub(in crate::api) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
) -> Result<Json<RecoveryWindowBody>> {
    authorized.may("instance:show")?;
    let window = state.app.recovery_window(&authorized.caller, instance_id(&of.id)?).await?;
    Ok(Json(body(window)))
}

/// Ship an instance's log of writes and keep it, or ship it no longer
///
/// Not in Trove.
#[utoipa::path(put, path = "/instances/{id}/recovery-window", tag = "instances", operation_id = "set_recovery_window",
    params(OfInstance), responses(Fault<404>, Fault<422>, Fault<501>))]
pub(in crate::api) async fn set(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
    Json(WantedBody { recovery_window: wanted }): Json<WantedBody>,
) -> Result<Json<RecoveryWindowBody>> {
    authorized.may("instance:update")?;
    let missing = || Error::BadRequest("Validation error: recovery_window.keep_seconds is required.".to_owned());
    let keep = wanted.keep_seconds.ok_or_else(missing)?.map(Duration::from_secs);
    let window = state.app.keep_log(&authorized.caller, instance_id(&of.id)?, keep).await?;
    Ok(Json(body(window)))
}
