//! Points in time: whether an instance's log of writes is shipped, to which moments that leads, and orders of one.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use trove_strategy::Capability;

use super::App;
use super::names::shown;
use super::visibility::{may_see, not_found};
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::InstanceId;
use crate::model::Instance;
use crate::model::backups::Backup;
pub use crate::model::logs::Range;
use crate::model::logs::ranges;
use crate::operations::restore_instance::{Replay, check_complete};
use crate::state::Task;

/// What is kept of a log at least: what is younger nobody could restore in time.
const LEAST_KEPT: Duration = Duration::from_secs(3600);
/// And at most: a year.
const MOST_KEPT: Duration = Duration::from_secs(366 * 24 * 3600);
/// Pieces that are replayed at most, which an agent is told all at once.
const MOST_PIECES: usize = 30_000;

/// To which moments an instance can be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryWindow {
    /// For how long its log is kept; `None`: nothing is shipped any more.
    pub keep: Option<Duration>,
    /// The oldest first. Between two of them there is a gap.
    pub ranges: Vec<Range>,
    /// What was acknowledged before this is stored; `None` before anything is.
    pub covered: Option<OffsetDateTime>,
}

/// A moment of an instance, of which another is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Id of the instance.
    pub instance: String,
    /// `None`: the last one that is stored.
    pub time: Option<OffsetDateTime>,
}

impl App {
    /// Of a deleted instance, too: what was stored of it stays until it is too old.
    ///
    /// # Errors
    /// 404.
    pub async fn recovery_window(&self, caller: &Caller, id: InstanceId) -> Result<RecoveryWindow> {
        let instance = self.instance_of_any_time(caller, id).await?;
        self.window_of(&instance).await
    }

    async fn window_of(&self, instance: &Instance) -> Result<RecoveryWindow> {
        let (id, project) = (instance.id, &instance.project);
        let keep = self.store.log_shipping(id).await?;
        let containers = self.store.log_containers(id, project).await?;
        let covered = containers.iter().filter_map(|container| container.covered).max();
        let bases = if containers.is_empty() { Vec::new() } else { self.store.log_bases(id, project).await? };
        Ok(RecoveryWindow { keep, ranges: ranges(&containers, &bases), covered })
    }

    async fn instance_of_any_time(&self, caller: &Caller, id: InstanceId) -> Result<Instance> {
        let found = self.store.get_instance(id).await?;
        found.filter(|instance| may_see(caller, instance)).ok_or_else(|| not_found(id))
    }

    /// Has the instance's log shipped and kept for so long, or shipped no longer. What is stored stays until it is too old.
    ///
    /// # Errors
    /// 400 names the field; 404; 422 while it is being deleted; 501 where the datastore has no points in time.
    pub async fn keep_log(&self, caller: &Caller, id: InstanceId, keep: Option<Duration>) -> Result<RecoveryWindow> {
        if let Some(keep) = keep
            && !(LEAST_KEPT..=MOST_KEPT).contains(&keep)
        {
            let (least, most) = (LEAST_KEPT.as_secs(), MOST_KEPT.as_secs());
            return Err(Error::BadRequest(format!(
                "Validation error: recovery_window.keep_seconds must be from {least} (an hour) to {most} (a year), or null."
            )));
        }
        let (instance, manifest) = self.get_instance_with_manifest(caller, id).await?;
        if !manifest.has(Capability::PointInTime) {
            let datastore = &instance.datastore;
            return Err(Error::NotImplemented(format!("Datastore {datastore} does not support points in time.")));
        }
        let mut tx = self.store.begin().await?;
        match self.store.task(&mut tx, id).await? {
            None => return Err(not_found(id)),
            Some(Task::Deleting) => return Err(Error::Unprocessable(format!("Instance {id} is being deleted."))),
            Some(_) => {}
        }
        self.store.set_log_shipping(&mut tx, id, &instance.project, keep).await?;
        self.commit(tx, "keep_log").await?;
        self.window_of(&instance).await
    }

    /// The complete backup from which a moment is reached, and what is to be replayed on it.
    ///
    /// # Errors
    /// 404; 422 outside of the recovery window, or with a longer log than is replayed.
    pub(super) async fn ordered_moment(&self, caller: &Caller, moment: &Moment) -> Result<(Backup, Replay)> {
        let missing = || Error::NotFound(format!("Instance {} cannot be found.", shown(&moment.instance)));
        let id: InstanceId = moment.instance.parse().map_err(|_| missing())?;
        let instance = self.instance_of_any_time(caller, id).await?;
        if instance.project != caller.project {
            return Err(missing());
        }
        let window = self.window_of(&instance).await?;
        let last = window.ranges.last().map(|range| range.until);
        let reached = moment.time.or(last).and_then(|at| {
            window.ranges.iter().find_map(|range| range.base(at).map(|base| (at, range.chain, base.clone())))
        });
        let (at, chain, base) = reached.ok_or_else(|| outside(id, moment.time, &window))?;
        let gone = || Error::Conflict(format!("Backup {} is being deleted.", base.id));
        let mut backup = self.store.get_backup(base.id).await?.ok_or_else(gone)?;
        check_complete(&backup)?;
        // The log may bring the account along, made after the backup was.
        let root_by = self.store.root_ever_by(id).await?;
        backup.source.root_by = backup.source.root_by.or(root_by);
        let log = self.store.log_to_replay(chain, base.created, at).await?;
        let pieces = log.iter().map(|(_, pieces)| pieces.len()).sum::<usize>();
        if pieces == 0 || pieces > MOST_PIECES {
            return Err(Error::Unprocessable(format!(
                "From backup {} to that time there are {pieces} pieces of the log, and {MOST_PIECES} can be replayed: take \
                 backups more often.",
                base.id
            )));
        }
        let bytes = log.iter().flat_map(|(_, pieces)| pieces).map(|piece| piece.data_bytes).sum();
        let micros = i64::try_from(at.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX);
        let since = i64::try_from(base.created.unix_timestamp_nanos() / 1000).unwrap_or_default();
        let until = moment.time.map(|_| micros);
        Ok((backup, Replay { chain, since, until, covered: micros, bytes }))
    }
}

fn outside(id: InstanceId, time: Option<OffsetDateTime>, window: &RecoveryWindow) -> Error {
    let shown = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
    let ranges = window.ranges.iter().map(|range| format!("{} to {}", shown(range.from), shown(range.until)));
    let ranges = ranges.collect::<Vec<_>>().join(", and ");
    let why = match (ranges.is_empty(), window.covered) {
        (false, _) => format!("to any time from {ranges}"),
        (true, Some(_)) => "once a full backup of it is complete that was begun after its log was".to_owned(),
        (true, None) if window.keep.is_some() => "once a part of its log is stored".to_owned(),
        (true, None) => "once its log is kept (PUT its recovery-window) and a full backup is complete".to_owned(),
    };
    let to = time.map_or("a point in time".to_owned(), shown);
    Error::Unprocessable(format!("Instance {id} cannot be restored to {to}: it can be {why}."))
}
