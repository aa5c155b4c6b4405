//! Schedules of backups, which Trove does not have.

pub(super) mod create;
pub(super) mod delete;
pub(super) mod list;
pub(super) mod show;
pub(super) mod update;
pub(super) mod view;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::backup_schedules::Keep;
use crate::app::names::shown;
use crate::error::{Error, Result};
use crate::ids::ScheduleId;

#[derive(Deserialize, IntoParams)]
pub(super) struct OfSchedule {
    /// The schedule.
    #[param(value_type = Uuid)]
    id: String,
}

/// The id of a path; what is no id is that of nothing.
fn schedule_id(text: &str) -> Result<ScheduleId> {
    text.parse().map_err(|_| Error::NotFound(format!("Backup schedule {} cannot be found.", shown(text))))
}

/// What is kept of the schedule's complete backups; one of the two at least. The newest is always kept.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    /// At most so many.
    #[schema(minimum = 1, maximum = 10_000)]
    count: Option<u32>,
    /// None that is older.
    #[schema(minimum = 1)]
    seconds: Option<u64>,
}

impl From<Kept> for Keep {
    fn from(kept: Kept) -> Self {
        Self { count: kept.count, age: kept.seconds.map(Duration::from_secs) }
    }
}

impl From<Keep> for Kept {
    fn from(keep: Keep) -> Self {
        Self { count: keep.count, seconds: keep.age.map(|age| age.as_secs()) }
    }
}
