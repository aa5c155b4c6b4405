//! A schedule as the API shows it.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Kept;
use crate::api::http::links::{Link, Time};
use crate::app::backup_schedules::{BackupSchedule, Rhythm};

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
    keep: Kept,
    /// Whether it rests: nothing is taken, and nothing removed.
    paused: bool,
    /// When the next backup is begun, or tried again; null while it rests.
    next_due: Option<Time>,
    /// When the last one was begun, and which it is. It may be deleted.
    last_run: Option<Time>,
    last_backup_id: Option<Uuid>,
    /// Why the last one was not begun, or has failed.
    fault: Option<String>,
    created: Time,
    updated: Time,
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
        keep: schedule.keep.into(),
        paused: schedule.paused,
        next_due: (!schedule.paused).then(|| schedule.next_due.into()),
        last_run: schedule.last_run.map(Into::into),
        last_backup_id: schedule.last_backup.map(|id| id.0),
        fault: schedule.fault.clone(),
        created: schedule.created.into(),
        updated: schedule.updated.into(),
    }
}
