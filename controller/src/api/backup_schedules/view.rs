//! A schedule as the API shows it.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Kept;
use crate::api::http::links::{Link, Time};
use crate::app::backup_schedules::{BackupSchedule, LastVerification, Rhythm};
use crate::app::host_paths::without_host_paths;

/// A schedule of backups.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ScheduleView {
    id: Uuid,
    project_id: String,
    /// Of which backups are taken.
    instance_id: Uuid,
    /// Five fields, UTC; null where there is an interval.
    cron: Option<String>,
    /// Null where there is a cron expression.
    interval_seconds: Option<u64>,
    /// In each such interval the first backup is a full one, and the others build on it; 0: all are full ones.
    full_every_seconds: u64,
    keep: Kept,
    /// How often one of its backups is verified; 0: never.
    verify_seconds: u64,
    /// Whether it rests: nothing is taken, nothing removed, and nothing verified.
    paused: bool,
    /// When the next backup is begun, or tried again; null while it rests.
    next_due: Option<Time>,
    /// When the last one was begun, and which it is. It may be deleted.
    last_run: Option<Time>,
    last_backup_id: Option<Uuid>,
    /// Why the last one was not begun, or has failed.
    fault: Option<String>,
    /// Of one of its backups, also by a person.
    last_verification: Option<LastVerificationView>,
    created: Time,
    updated: Time,
}

/// The last verification of a backup of a schedule.
#[derive(Serialize, ToSchema)]
struct LastVerificationView {
    /// It may be deleted.
    backup_id: Uuid,
    #[schema(value_type = String, pattern = "^(running|passed|failed)$")]
    state: &'static str,
    /// Since when it runs, or when it ended.
    at: Time,
    /// Why it failed, or was not begun.
    fault: Option<String>,
}

impl From<&LastVerification> for LastVerificationView {
    fn from(last: &LastVerification) -> Self {
        Self {
            backup_id: last.backup.0,
            state: last.state.tag(),
            at: last.at.into(),
            fault: last.fault.as_deref().map(without_host_paths),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ScheduleBody {
    pub(in crate::api) backup_schedule: ScheduleView,
}

/// A page of schedules.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct SchedulesPage {
    pub(in crate::api) backup_schedules: Vec<ScheduleView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) backup_schedules_links: Option<Vec<Link>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) links: Option<Vec<Link>>,
}

/// Of an interval; 0 where there is none.
fn seconds(interval: Option<Duration>) -> u64 {
    interval.map_or(0, |interval| interval.as_secs())
}

/// The body of a single one.
pub(in crate::api) fn body(schedule: &BackupSchedule) -> ScheduleBody {
    ScheduleBody { backup_schedule: view(schedule) }
}

/// The view of lists and of a single one.
pub(in crate::api) fn view(schedule: &BackupSchedule) -> ScheduleView {
    let (cron, interval_seconds) = match &schedule.rhythm {
        Rhythm::Cron(text) => (Some(text.clone()), None),
        Rhythm::Every(interval) => (None, Some(interval.as_secs())),
    };
    ScheduleView {
        id: schedule.id.0,
        project_id: schedule.project.0.clone(),
        instance_id: schedule.instance.0,
        cron,
        interval_seconds,
        full_every_seconds: seconds(schedule.full_every),
        keep: schedule.keep.into(),
        verify_seconds: seconds(schedule.verify),
        paused: schedule.paused,
        next_due: (!schedule.paused).then(|| schedule.next_due.into()),
        last_run: schedule.last_run.map(Into::into),
        last_backup_id: schedule.last_backup.map(|id| id.0),
        fault: schedule.fault.as_deref().map(without_host_paths),
        last_verification: schedule.last_verification.as_ref().map(Into::into),
        created: schedule.created.into(),
        updated: schedule.updated.into(),
    }
}
