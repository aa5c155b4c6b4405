//! `PATCH /backup_schedules/{id}`: 200 with the view.

use std::time::Duration;

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::view::{ScheduleBody, body};
use super::{Kept, OfSchedule, schedule_id};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::app::backup_schedules::{NewRhythm, ScheduleChange};
use crate::error::{Error, Result};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ChangedSchedule {
    backup_schedule: ScheduleChanges,
}

/// A change of a schedule of backups, of one part of it at least.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ScheduleChanges {
    /// In the place of an interval, too.
    #[schema(max_length = 100)]
    cron: Option<String>,
    /// In the place of a cron expression, too.
    #[schema(minimum = 1)]
    interval_seconds: Option<u64>,
    /// 0: all backups are full ones.
    full_every_seconds: Option<u64>,
    /// In the place of both bounds.
    keep: Option<Kept>,
    /// 0: never. With another interval the next backup that is begun is verified.
    verify_seconds: Option<u64>,
    paused: Option<bool>,
}

impl TryFrom<ChangedSchedule> for ScheduleChange {
    type Error = Error;

    fn try_from(ChangedSchedule { backup_schedule: change }: ChangedSchedule) -> Result<Self> {
        let interval = change.interval_seconds.map(Duration::from_secs);
        let rhythm = (change.cron.is_some() || interval.is_some()).then_some(NewRhythm { cron: change.cron, interval });
        let verify = change.verify_seconds.map(Duration::from_secs);
        let full_every = change.full_every_seconds.map(Duration::from_secs);
        let new = Self { rhythm, full_every, keep: change.keep.map(Into::into), verify, paused: change.paused };
        if new == Self::default() {
            return Err(Error::BadRequest(
                "Validation error: backup_schedule needs cron, interval_seconds, full_every_seconds, keep, \
                 verify_seconds or paused."
                    .to_owned(),
            ));
        }
        Ok(new)
    }
}

/// Change a schedule of backups
///
/// With another rhythm, or when it rests no longer, it is due next at the first time that is still to come.
#[utoipa::path(patch, path = "/backup_schedules/{id}", tag = "backups", operation_id = "update_backup_schedule",
    params(OfSchedule), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn update(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfSchedule>,
    Json(change): Json<ChangedSchedule>,
) -> Result<Json<ScheduleBody>> {
    authorized.may("backup_schedule:update")?;
    let (id, change) = (schedule_id(&of.id)?, ScheduleChange::try_from(change)?);
    Ok(Json(body(&state.app.change_backup_schedule(&authorized.caller, id, change).await?)))
}
