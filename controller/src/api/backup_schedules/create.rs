//! `POST /backup_schedules`: 200 with the view.

use std::time::Duration;

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Kept;
use super::view::{ScheduleBody, body};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::Json;
use crate::api::http::fault::Fault;
use crate::api::http::fields::Reference;
use crate::app::backup_schedules::{self, NewRhythm};
use crate::error::Result;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ScheduleOrder {
    backup_schedule: NewSchedule,
}

/// A schedule of backups to be made, with one of `cron` and `interval_seconds`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSchedule {
    /// Of which backups are taken.
    instance: Reference,
    /// Five fields (minute, hour, day, month, day of the week), UTC.
    #[schema(max_length = 100, example = "0 3 * * *")]
    cron: Option<String>,
    #[schema(minimum = 1)]
    interval_seconds: Option<u64>,
    /// In each such interval the first backup is a full one, and the others build on it, where the datastore has increments; 0: all
    /// are full ones.
    #[serde(default)]
    full_every_seconds: u64,
    keep: Kept,
    /// How often one of its backups is verified, by the newest that is complete; 0: never. Each week where it is left out.
    verify_seconds: Option<u64>,
    /// Whether it rests until it is changed.
    #[serde(default)]
    paused: bool,
}

/// Make a schedule of backups
///
/// Each begins up to 5 minutes, and a tenth of the time between two, after its time, by an amount that is the schedule's own.
#[utoipa::path(post, path = "/backup_schedules", tag = "backups", operation_id = "create_backup_schedule",
    responses(Fault<404>, Fault<422>, Fault<501>))]
pub(in crate::api) async fn create(
    State(state): State<ApiState>,
    authorized: Authorized,
    Json(ScheduleOrder { backup_schedule: new }): Json<ScheduleOrder>,
) -> Result<Json<ScheduleBody>> {
    authorized.may("backup_schedule:create")?;
    let order = backup_schedules::NewSchedule {
        instance: new.instance.0,
        rhythm: NewRhythm { cron: new.cron, interval: new.interval_seconds.map(Duration::from_secs) },
        full_every: Duration::from_secs(new.full_every_seconds),
        keep: new.keep.into(),
        verify: new.verify_seconds.map(Duration::from_secs),
        paused: new.paused,
    };
    Ok(Json(body(&state.app.create_backup_schedule(&authorized.caller, order).await?)))
}
