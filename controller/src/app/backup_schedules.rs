//! Schedules of backups: what a tenant makes, sees, changes and deletes. A reconciler begins the backups.

use std::time::Duration;

use time::OffsetDateTime;
use trove_strategy::{Capability, Manifest};

use super::backups::is_of;
use super::names::shown;
use super::visibility::not_found;
use super::{App, Page, PageRequest};
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::{InstanceId, ProjectId, ScheduleId};
pub use crate::model::backup_schedules::{BackupSchedule, Keep, LastVerification, Rhythm};
use crate::operations::create_backup;
use crate::state::Task;
use crate::store::backup_schedules::Filter;
use crate::store::sql::Connection;

/// How often one of a schedule's backups is verified where nothing is said.
const USUAL_VERIFY: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest interval: a year.
const MOST_INTERVAL: Duration = Duration::from_secs(366 * 24 * 3600);
/// Most backups that a schedule keeps.
const MOST_KEPT: u32 = 10_000;
/// Longest time for which a schedule keeps them: ten years.
const MOST_AGE: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// Schedules of an instance at most.
const MOST: u64 = 10;

/// When backups are to be taken: one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRhythm {
    /// A cron expression of five fields, UTC.
    pub cron: Option<String>,
    pub interval: Option<Duration>,
}

/// A schedule to be made, checked for its form by the API; the rest is checked here.
#[derive(Clone, Debug)]
pub struct NewSchedule {
    /// Id of the instance.
    pub instance: String,
    pub rhythm: NewRhythm,
    /// In each such interval the first backup is a full one, and the others build on it; zero: all are full ones.
    pub full_every: Duration,
    pub keep: Keep,
    /// How often one of its backups is verified: zero is never, and `None` each week.
    pub verify: Option<Duration>,
    pub paused: bool,
}

/// A change of a schedule; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleChange {
    pub rhythm: Option<NewRhythm>,
    /// Zero: all are full ones.
    pub full_every: Option<Duration>,
    /// In the place of all that was said of it.
    pub keep: Option<Keep>,
    /// Zero is never.
    pub verify: Option<Duration>,
    pub paused: Option<bool>,
}

/// Which schedules a list shows.
#[derive(Clone, Debug, Default)]
pub struct ListedSchedules {
    /// Of all projects, or of this one; else of the caller's.
    pub all_projects: bool,
    pub project: Option<ProjectId>,
    /// Only those of the instance with this id.
    pub instance: Option<String>,
}

impl App {
    /// Makes a schedule for an instance, whatever its state.
    ///
    /// # Errors
    /// 400 names the field; 404; 422 while the instance is being deleted, when it has [`MOST`], and where the datastore has no
    /// increments; 501 where it has no backups.
    pub async fn create_backup_schedule(&self, caller: &Caller, order: NewSchedule) -> Result<BackupSchedule> {
        let now = self.store.now();
        let rhythm = self.check_rhythm(order.rhythm, now)?;
        check_keep(order.keep)?;
        let verify = self.check_verify(order.verify.unwrap_or(USUAL_VERIFY))?;
        let missing = || Error::NotFound(format!("Instance {} cannot be found.", shown(&order.instance)));
        let id: InstanceId = order.instance.parse().map_err(|_| missing())?;
        let (instance, manifest) = self.get_instance_with_manifest(caller, id).await?;
        create_backup::check_able(&instance, &manifest)?;
        let full_every = self.check_full_every(order.full_every, &manifest)?;
        let mut schedule = BackupSchedule {
            id: ScheduleId::random(),
            project: instance.project,
            instance: id,
            user_id: caller.user_id.clone(),
            rhythm,
            full_every,
            anchor: now,
            keep: order.keep,
            verify,
            verify_due: now,
            last_verification: None,
            paused: order.paused,
            next_due: now,
            tries: 0,
            last_run: None,
            last_backup: None,
            fault: None,
            created: now,
            updated: now,
        };
        schedule.next_due = due_after(&schedule, now)?;
        let mut tx = self.store.begin().await?;
        self.check_schedulable(&mut tx, id).await?;
        self.store.insert_backup_schedule(&mut tx, &schedule).await?;
        self.commit(tx, "create_backup_schedule").await?;
        Ok(schedule)
    }

    /// Looks in the transaction: once the instance is deleted nobody takes its schedules away.
    async fn check_schedulable(&self, conn: &mut Connection, instance: InstanceId) -> Result<()> {
        match self.store.task(conn, instance).await? {
            None => return Err(not_found(instance)),
            Some(Task::Deleting) => {
                return Err(Error::Unprocessable(format!("Instance {instance} is being deleted.")));
            }
            Some(_) => {}
        }
        if self.store.count_backup_schedules(conn, instance).await? >= MOST {
            return Err(Error::Unprocessable(format!("Instance {instance} has {MOST} schedules of backups already.")));
        }
        Ok(())
    }

    /// Schedules by id. Other projects' are for administrators, which the caller of this has checked.
    pub async fn list_backup_schedules(
        &self,
        caller: &Caller,
        wanted: &ListedSchedules,
        page: PageRequest,
    ) -> Result<Page<BackupSchedule>> {
        let project = match &wanted.project {
            Some(project) => Some(project),
            None => (!wanted.all_projects).then_some(&caller.project),
        };
        let filter = Filter { project, instance: wanted.instance.as_deref() };
        let limit = page.limit.saturating_add(1);
        let found = self.store.list_backup_schedules(filter, page.marker.as_deref(), limit).await?;
        Ok(Page::cut(found, page.limit, |schedule| schedule.id.to_string()))
    }

    /// One of the caller's project's schedules (any, for an admin).
    ///
    /// # Errors
    /// 404.
    pub async fn get_backup_schedule(&self, caller: &Caller, id: ScheduleId) -> Result<BackupSchedule> {
        visible(caller, id, self.store.get_backup_schedule(id).await?)
    }

    /// Changes a schedule. One that has another rhythm, or rests no longer, is due next at the first time that is still to come. One
    /// whose backups are verified otherwise has the next one that is begun verified.
    ///
    /// # Errors
    /// 400 names the field; 404; 422 where the datastore has no increments.
    pub async fn change_backup_schedule(
        &self,
        caller: &Caller,
        id: ScheduleId,
        change: ScheduleChange,
    ) -> Result<BackupSchedule> {
        let now = self.store.now();
        let rhythm = change.rhythm.map(|rhythm| self.check_rhythm(rhythm, now)).transpose()?;
        change.keep.map(check_keep).transpose()?;
        let verify = change.verify.map(|verify| self.check_verify(verify)).transpose()?;
        let full_every = match change.full_every {
            Some(interval) => {
                let schedule = self.get_backup_schedule(caller, id).await?;
                let (_, manifest) = self.get_instance_with_manifest(caller, schedule.instance).await?;
                Some(self.check_full_every(interval, &manifest)?)
            }
            None => None,
        };
        let mut tx = self.store.begin().await?;
        let mut schedule = visible(caller, id, self.store.backup_schedule(&mut tx, id).await?)?;
        let resumed = schedule.paused && change.paused == Some(false);
        if resumed || rhythm.is_some() {
            if let Some(rhythm) = rhythm {
                (schedule.rhythm, schedule.anchor) = (rhythm, now);
            }
            (schedule.next_due, schedule.tries) = (due_after(&schedule, now)?, 0);
        }
        if let Some(verify) = verify.filter(|verify| *verify != schedule.verify) {
            (schedule.verify, schedule.verify_due) = (verify, now);
        }
        schedule.full_every = full_every.unwrap_or(schedule.full_every);
        schedule.paused = change.paused.unwrap_or(schedule.paused);
        schedule.keep = change.keep.unwrap_or(schedule.keep);
        schedule.updated = now;
        self.store.change_backup_schedule(&mut tx, &schedule).await?;
        self.commit(tx, "change_backup_schedule").await?;
        Ok(schedule)
    }

    /// Deletes a schedule. Its backups stay, and nothing but a person deletes them from then on.
    ///
    /// # Errors
    /// 404.
    pub async fn delete_backup_schedule(&self, caller: &Caller, id: ScheduleId) -> Result<()> {
        let mut tx = self.store.begin().await?;
        visible(caller, id, self.store.backup_schedule(&mut tx, id).await?)?;
        self.store.delete_backup_schedule(&mut tx, id).await?;
        self.commit(tx, "delete_backup_schedule").await
    }

    /// # Errors
    /// 400 names the field.
    fn check_rhythm(&self, rhythm: NewRhythm, now: OffsetDateTime) -> Result<Rhythm> {
        let least = self.config.backups.least_schedule_interval;
        match (rhythm.cron, rhythm.interval) {
            (Some(text), None) => {
                let rhythm = Rhythm::cron(&text, now).map_err(|reason| refused("['cron']", &reason))?;
                if rhythm.shortest(now) < least {
                    let reason = format!("must not come twice within {}", spelled(least));
                    return Err(refused("['cron']", &reason));
                }
                Ok(rhythm)
            }
            (None, Some(interval)) => {
                self.check_interval("['interval_seconds']", "", interval)?;
                Ok(Rhythm::Every(interval))
            }
            (Some(_), Some(_)) => Err(refused("['cron']", "must not be there together with interval_seconds")),
            (None, None) => Err(refused("", "needs cron or interval_seconds")),
        }
    }

    /// # Errors
    /// 400 names the field.
    fn check_verify(&self, interval: Duration) -> Result<Option<Duration>> {
        if interval.is_zero() {
            return Ok(None);
        }
        self.check_interval("['verify_seconds']", "0 (never) or ", interval)?;
        Ok(Some(interval))
    }

    /// # Errors
    /// 400 names the field; 422.
    fn check_full_every(&self, interval: Duration, manifest: &Manifest) -> Result<Option<Duration>> {
        if interval.is_zero() {
            return Ok(None);
        }
        if !manifest.has(Capability::Incremental) {
            return Err(Error::Unprocessable(format!(
                "Datastore {} has no incremental backups: leave out full_every_seconds.",
                manifest.identity.name
            )));
        }
        self.check_interval("['full_every_seconds']", "0 (all of them) or ", interval)?;
        Ok(Some(interval))
    }

    /// # Errors
    /// 400 names the field.
    fn check_interval(&self, field: &str, or: &str, interval: Duration) -> Result<()> {
        let least = self.config.backups.least_schedule_interval;
        if (least..=MOST_INTERVAL).contains(&interval) {
            return Ok(());
        }
        let (from, to) = (least.as_secs(), MOST_INTERVAL.as_secs());
        Err(refused(field, &format!("must be {or}from {from} ({}) to {to} (a year)", spelled(least))))
    }
}

/// # Errors
/// 400 names the field.
fn check_keep(keep: Keep) -> Result<()> {
    if keep.count.is_none() && keep.age.is_none() {
        return Err(refused("['keep']", "needs count or seconds"));
    }
    if keep.count.is_some_and(|count| !(1..=MOST_KEPT).contains(&count)) {
        return Err(refused("['keep']['count']", &format!("must be from 1 to {MOST_KEPT}")));
    }
    if keep.age.is_some_and(|age| age.is_zero() || age > MOST_AGE) {
        return Err(refused("['keep']['seconds']", &format!("must be from 1 to {} (ten years)", MOST_AGE.as_secs())));
    }
    Ok(())
}

fn refused(field: &str, reason: &str) -> Error {
    Error::BadRequest(format!("Validation error: backup_schedule{field} {reason}."))
}

/// An interval in whole minutes, where it is some.
fn spelled(interval: Duration) -> String {
    let seconds = interval.as_secs();
    if seconds.is_multiple_of(60) { format!("{} min", seconds / 60) } else { format!("{seconds} s") }
}

fn due_after(schedule: &BackupSchedule, now: OffsetDateTime) -> Result<OffsetDateTime> {
    schedule.due_after(now).ok_or_else(|| refused("['cron']", "must come at some time, and never does"))
}

/// The schedule that was found, if it is there for the caller.
fn visible(caller: &Caller, id: ScheduleId, found: Option<BackupSchedule>) -> Result<BackupSchedule> {
    let found = found.filter(|found| is_of(caller, &found.project));
    found.ok_or_else(|| Error::NotFound(format!("Backup schedule {id} cannot be found.")))
}

#[cfg(test)]
mod tests;
