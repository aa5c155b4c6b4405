//! Rows of schedules of backups, and which of their backups are kept.
//!
//! Methods with `conn` take part in the caller's transaction. What moves `next_due` is conditional on the one that was read, so
//! that of several controllers one begins a backup.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use time::OffsetDateTime;

use super::instances::rows::{column, maybe_parsed, maybe_text, narrow, parsed, tagged, time, unsigned};
use super::{Store, from_micros, micros};
use crate::error::{Error, Result};
use crate::ids::{BackupId, InstanceId, OperationId, ProjectId, ScheduleId};
use crate::model::backup_schedules::{BackupSchedule, Held, Keep, LastVerification, Rhythm};
use crate::model::backups::{Backup, BackupState, VerificationState};
use crate::store::sql::{Connection, News, Query, Row, Target, query};

const SELECT: &str = "select s.id, s.project_id, s.instance_id, s.user_id, s.cron, s.interval_seconds, s.anchor, s.keep_count, \
     s.keep_seconds, s.paused, s.next_due, s.tries, s.last_run, s.last_backup_id, s.fault, s.created, s.updated, s.verify_seconds, \
     s.verify_due, s.verification, s.verification_backup_id, s.verification_at, s.verification_fault, \
     s.full_every_seconds from backup_schedule s";

/// Which schedules a list shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter<'a> {
    /// Only this project's.
    pub project: Option<&'a ProjectId>,
    /// Only those of the instance with this id.
    pub instance: Option<&'a str>,
}

impl Store {
    /// Inserts a schedule.
    pub async fn insert_backup_schedule(&self, conn: &mut Connection, schedule: &BackupSchedule) -> Result<()> {
        conn.announce(News::Work);
        let insert = query(
            "insert into backup_schedule (id, project_id, instance_id, user_id, tries, created, updated, \
             cron, interval_seconds, anchor, keep_count, keep_seconds, paused, next_due, fault, verify_seconds, verify_due, \
             full_every_seconds) \
             values ($1, $14, $15, $16, $10, $17, $9, $2, $3, $4, $5, $6, $7, $8, null, $11, $12, $13)",
        );
        written(insert, schedule)
            .bind(&schedule.project.0)
            .bind(schedule.instance.to_string())
            .bind(&schedule.user_id)
            .bind(micros(schedule.created))
            .execute(conn)
            .await
            .map_err(failed("insert", schedule.id))?;
        Ok(())
    }

    /// Writes what a person has changed of a schedule.
    pub async fn change_backup_schedule(&self, conn: &mut Connection, schedule: &BackupSchedule) -> Result<()> {
        conn.announce(News::Work);
        let update = query(
            "update backup_schedule set cron = $2, interval_seconds = $3, anchor = $4, keep_count = $5, keep_seconds = $6, \
             paused = $7, next_due = $8, updated = $9, tries = $10, verify_seconds = $11, verify_due = $12, \
             full_every_seconds = $13 where id = $1",
        );
        written(update, schedule).execute(conn).await.map_err(failed("change", schedule.id))?;
        Ok(())
    }

    /// A schedule.
    pub async fn get_backup_schedule(&self, id: ScheduleId) -> Result<Option<BackupSchedule>> {
        read(&self.read, id).await
    }

    /// A schedule, in a transaction that depends on it.
    pub async fn backup_schedule(&self, conn: &mut Connection, id: ScheduleId) -> Result<Option<BackupSchedule>> {
        read(conn, id).await
    }

    /// At most `limit` schedules by id, after the one whose id `marker` is.
    pub async fn list_backup_schedules(
        &self,
        filter: Filter<'_>,
        marker: Option<&str>,
        limit: u32,
    ) -> Result<Vec<BackupSchedule>> {
        let sql = AssertSqlSafe(format!(
            "{SELECT} where ($1 is null or s.project_id = $1) and ($2 is null or s.instance_id = $2) \
             and ($3 is null or s.id > $3) order by s.id limit $4"
        ));
        let rows = query(sql)
            .bind(filter.project.map(|project| project.0.as_str()))
            .bind(filter.instance)
            .bind(marker)
            .bind(i64::from(limit))
            .fetch_all(&self.read)
            .await
            .map_err(|error| Error::internal("list schedules of backups", error))?;
        rows.iter().map(schedule).collect()
    }

    /// How many schedules an instance has.
    pub async fn count_backup_schedules(&self, conn: &mut Connection, instance: InstanceId) -> Result<u64> {
        let sql = "select count(*) from backup_schedule where instance_id = $1";
        let row = query(sql).bind(instance.to_string()).fetch_one(conn).await;
        let count: i64 = row
            .and_then(|row| row.try_get(0))
            .map_err(|error| Error::internal(format!("count the schedules of instance {instance}"), error))?;
        Ok(count.unsigned_abs())
    }

    /// Removes a schedule; its backups stay.
    pub async fn delete_backup_schedule(&self, conn: &mut Connection, id: ScheduleId) -> Result<()> {
        let delete = query("delete from backup_schedule where id = $1").bind(id.to_string());
        delete.execute(conn).await.map_err(failed("delete", id))?;
        Ok(())
    }

    /// Removes the schedules of an instance; their backups stay.
    pub(super) async fn delete_backup_schedules_of(&self, conn: &mut Connection, instance: InstanceId) -> Result<()> {
        let delete = query("delete from backup_schedule where instance_id = $1").bind(instance.to_string());
        let done = delete.execute(conn).await;
        done.map_err(|error| Error::internal(format!("delete the schedules of instance {instance}"), error))?;
        Ok(())
    }

    /// At most `limit` schedules that are due at `now`, the longest due first.
    pub async fn list_due_backup_schedules(&self, now: OffsetDateTime, limit: u32) -> Result<Vec<BackupSchedule>> {
        let sql = AssertSqlSafe(format!(
            "{SELECT} where not s.paused and s.next_due <= $1 order by s.next_due, s.id limit $2"
        ));
        let rows = query(sql).bind(micros(now)).bind(i64::from(limit)).fetch_all(&self.read).await;
        let rows = rows.map_err(|error| Error::internal("list the schedules that are due", error))?;
        rows.iter().map(schedule).collect()
    }

    /// When the first schedule is due.
    pub async fn next_backup_due(&self) -> Result<Option<OffsetDateTime>> {
        let row = query("select min(next_due) from backup_schedule where not paused").fetch_one(&self.read).await;
        let due = row.and_then(|row| row.try_get::<Option<i64>, _>(0));
        Ok(due.map_err(|error| Error::internal("look when a schedule is due", error))?.map(from_micros))
    }

    /// How many backups of schedules are being taken.
    pub async fn count_scheduled_backups(&self, conn: &mut Connection) -> Result<u64> {
        let sql =
            "select count(*) from backup where state in ('NEW', 'BUILDING', 'SAVING') and schedule_id is not null";
        let row = query(sql).fetch_one(conn).await;
        let count: i64 = row
            .and_then(|row| row.try_get(0))
            .map_err(|error| Error::internal("count the backups of schedules that are being taken", error))?;
        Ok(count.unsigned_abs())
    }

    /// That a backup was begun, in the transaction that orders it. `false`: it was due no more as it was read.
    pub async fn begin_scheduled_backup(
        &self,
        conn: &mut Connection,
        read: &BackupSchedule,
        backup: BackupId,
        now: OffsetDateTime,
        next: OffsetDateTime,
    ) -> Result<bool> {
        let update = query(
            "update backup_schedule set next_due = $3, tries = 0, last_run = $4, last_backup_id = $5, fault = null \
             where id = $1 and next_due = $2 and not paused",
        );
        let done = update
            .bind(read.id.to_string())
            .bind(micros(read.next_due))
            .bind(micros(next))
            .bind(micros(now))
            .bind(backup.to_string())
            .execute(conn)
            .await
            .map_err(failed("move on", read.id))?;
        Ok(done.rows_affected() == 1)
    }

    /// That no backup was begun, and why; it is due next at `next`. `tries`: how often that one was tried in vain. `false`: it
    /// was due no more as it was read.
    pub async fn put_off_scheduled_backup(
        &self,
        conn: &mut Connection,
        read: &BackupSchedule,
        tries: u32,
        next: OffsetDateTime,
        fault: &str,
    ) -> Result<bool> {
        let update = query(
            "update backup_schedule set next_due = $3, tries = $4, fault = $5 \
             where id = $1 and next_due = $2 and not paused",
        );
        let done = update
            .bind(read.id.to_string())
            .bind(micros(read.next_due))
            .bind(micros(next))
            .bind(i64::from(tries))
            .bind(fault)
            .execute(conn)
            .await
            .map_err(failed("put off", read.id))?;
        Ok(done.rows_affected() == 1)
    }

    /// At most `limit` schedules of whose backups one is to be verified now, the longest due first.
    pub async fn list_due_verifications(&self, limit: u32) -> Result<Vec<BackupSchedule>> {
        let sql = AssertSqlSafe(format!(
            "{SELECT} where not s.paused and s.verify_seconds is not null and exists (select 1 from backup b \
             where b.schedule_id = s.id and b.state = 'COMPLETED' and b.created >= s.verify_due) \
             order by s.verify_due, s.id limit $1"
        ));
        let rows = query(sql).bind(i64::from(limit)).fetch_all(&self.read).await;
        let rows = rows.map_err(|error| Error::internal("list the verifications that are due", error))?;
        rows.iter().map(schedule).collect()
    }

    /// That a verification of one of a schedule's backups has begun, if the schedule is still there; the next one is due from then on.
    pub(super) async fn begin_scheduled_verification(
        &self,
        conn: &mut Connection,
        backup: &Backup,
        operation: OperationId,
        now: i64,
    ) -> Result<()> {
        let Some(id) = backup.schedule else { return Ok(()) };
        let Some(schedule) = self.backup_schedule(conn, id).await? else { return Ok(()) };
        let due = schedule.verify_due_after(backup.created).unwrap_or(schedule.verify_due);
        query(
            "update backup_schedule set verification = 'running', verification_backup_id = $2, verification_operation_id = $3, \
             verification_at = $4, verification_fault = null, verify_due = $5 where id = $1",
        )
        .bind(id.to_string())
        .bind(backup.id.to_string())
        .bind(operation.to_string())
        .bind(now)
        .bind(micros(due))
        .execute(conn)
        .await
        .map_err(failed("begin a verification of", id))?;
        Ok(())
    }

    /// That a verification of this backup was not begun, and why, in the transaction that has read the schedule.
    pub async fn refuse_scheduled_verification(
        &self,
        conn: &mut Connection,
        schedule: &BackupSchedule,
        backup: &Backup,
        fault: &str,
    ) -> Result<()> {
        let due = schedule.verify_due_after(backup.created).unwrap_or(schedule.verify_due);
        query(
            "update backup_schedule set verification = 'failed', verification_backup_id = $2, verification_operation_id = null, \
             verification_at = $3, verification_fault = $4, verify_due = $5 where id = $1",
        )
        .bind(schedule.id.to_string())
        .bind(backup.id.to_string())
        .bind(self.now_micros())
        .bind(fault)
        .bind(micros(due))
        .execute(conn)
        .await
        .map_err(failed("refuse a verification of", schedule.id))?;
        Ok(())
    }

    /// Says in the schedule of the operation's backup, if it has one, why that has failed.
    pub async fn fail_schedule_of(&self, conn: &mut Connection, operation: OperationId, fault: &str) -> Result<()> {
        let update = query(
            "update backup_schedule set fault = $2 \
             where last_backup_id = (select id from backup where operation_id = $1 and schedule_id is not null)",
        );
        let done = update.bind(operation.to_string()).bind(fault).execute(conn).await;
        done.map_err(|error| Error::internal("say in a schedule why its backup failed", error))?;
        Ok(())
    }

    /// The schedule of the operation's backup, if it has one that is still there.
    pub async fn schedule_of(&self, conn: &mut Connection, operation: OperationId) -> Result<Option<BackupSchedule>> {
        let sql =
            AssertSqlSafe(format!("{SELECT} where s.id = (select schedule_id from backup where operation_id = $1)"));
        let row = query(sql).bind(operation.to_string()).fetch_optional(conn).await;
        let row = row.map_err(|error| Error::internal(format!("read the schedule of operation {operation}"), error))?;
        row.map(|row| schedule(&row)).transpose()
    }

    /// At most `limit` schedules that do not rest, by id, after this one.
    pub async fn active_backup_schedules(&self, after: Option<ScheduleId>, limit: u32) -> Result<Vec<BackupSchedule>> {
        let sql =
            AssertSqlSafe(format!("{SELECT} where not s.paused and ($1 is null or s.id > $1) order by s.id limit $2"));
        let rows = query(sql)
            .bind(after.map(|id| id.to_string()))
            .bind(i64::from(limit))
            .fetch_all(&self.read)
            .await
            .map_err(|error| Error::internal("list the schedules that do not rest", error))?;
        rows.iter().map(schedule).collect()
    }

    /// Begins the deletion of the backups that a schedule keeps no longer, but for those that are being restored or verified, or that
    /// an increment needs which is kept or being taken; which.
    pub async fn trim_backups(
        &self,
        conn: &mut Connection,
        schedule: &BackupSchedule,
        now: OffsetDateTime,
    ) -> Result<Vec<BackupId>> {
        if schedule.paused {
            return Ok(Vec::new());
        }
        let rows = query(
            "select id, state, created from backup where schedule_id = $1 and state in ('COMPLETED', 'FAILED') \
             order by created desc, id desc",
        )
        .bind(schedule.id.to_string())
        .fetch_all(&mut *conn)
        .await
        .map_err(failed("list the backups of", schedule.id))?;
        let held = |row: &Row| {
            let (id, state) = (BackupId(parsed(row, "id")?), tagged(row, "state", BackupState::from_tag)?);
            Ok(Held { id, state, created: time(row, "created")? })
        };
        let held: Vec<Held> = rows.iter().map(held).collect::<Result<_>>()?;
        let mut begun = Vec::new();
        // The newest first: what builds on one goes before it does.
        for id in schedule.keep.surplus(&held, now) {
            let is_read = self.backup_reader(conn, id).await?.is_some();
            let needs = |increment: &Backup| increment.state.is_running() || increment.state == BackupState::Completed;
            if !is_read && !self.increments_on(conn, id).await?.iter().any(needs) {
                self.begin_backup_deletion(conn, id).await?;
                begun.push(id);
            }
        }
        if !begun.is_empty() {
            conn.announce(News::Work);
        }
        Ok(begun)
    }
}

/// Binds `$1` to `$13`: what a person decides of a schedule, and what follows from it.
fn written(query: Query, schedule: &BackupSchedule) -> Query {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let (cron, interval) = match &schedule.rhythm {
        Rhythm::Cron(text) => (Some(text.as_str()), None),
        Rhythm::Every(interval) => (None, Some(seconds(*interval))),
    };
    query
        .bind(schedule.id.to_string())
        .bind(cron)
        .bind(interval)
        .bind(micros(schedule.anchor))
        .bind(schedule.keep.count.map(i64::from))
        .bind(schedule.keep.age.map(seconds))
        .bind(schedule.paused)
        .bind(micros(schedule.next_due))
        .bind(micros(schedule.updated))
        .bind(i64::from(schedule.tries))
        .bind(schedule.verify.map(seconds))
        .bind(micros(schedule.verify_due))
        .bind(schedule.full_every.map(seconds))
}

async fn read<'a>(target: impl Into<Target<'a>>, id: ScheduleId) -> Result<Option<BackupSchedule>> {
    let sql = AssertSqlSafe(format!("{SELECT} where s.id = $1"));
    let row = query(sql).bind(id.to_string()).fetch_optional(target).await.map_err(failed("read", id))?;
    row.map(|row| schedule(&row)).transpose()
}

/// One of [`SELECT`].
fn schedule(row: &Row) -> Result<BackupSchedule> {
    let rhythm = match column(row, "cron")? {
        Some(text) => Rhythm::Cron(text),
        None => Rhythm::Every(Duration::from_secs(unsigned(row, "interval_seconds")?)),
    };
    let keep = Keep {
        count: maybe_number(row, "keep_count")?,
        age: maybe_number(row, "keep_seconds")?.map(Duration::from_secs),
    };
    Ok(BackupSchedule {
        id: ScheduleId(parsed(row, "id")?),
        project: ProjectId(column(row, "project_id")?),
        instance: InstanceId(parsed(row, "instance_id")?),
        user_id: column(row, "user_id")?,
        rhythm,
        full_every: maybe_number(row, "full_every_seconds")?.map(Duration::from_secs),
        anchor: time(row, "anchor")?,
        keep,
        verify: maybe_number(row, "verify_seconds")?.map(Duration::from_secs),
        verify_due: time(row, "verify_due")?,
        last_verification: last_verification(row)?,
        paused: column(row, "paused")?,
        next_due: time(row, "next_due")?,
        tries: narrow(row, "tries")?,
        last_run: column::<Option<i64>>(row, "last_run")?.map(from_micros),
        last_backup: maybe_parsed(row, "last_backup_id")?.map(BackupId),
        fault: column(row, "fault")?,
        created: time(row, "created")?,
        updated: time(row, "updated")?,
    })
}

fn last_verification(row: &Row) -> Result<Option<LastVerification>> {
    if maybe_text(row, "verification")?.is_none() {
        return Ok(None);
    }
    Ok(Some(LastVerification {
        backup: BackupId(parsed(row, "verification_backup_id")?),
        state: tagged(row, "verification", VerificationState::from_tag)?,
        at: time(row, "verification_at")?,
        fault: column(row, "verification_fault")?,
    }))
}

fn maybe_number<T: TryFrom<i64>>(row: &Row, name: &'static str) -> Result<Option<T>> {
    let is_null = column::<Option<i64>>(row, name)?.is_none();
    if is_null { Ok(None) } else { narrow(row, name).map(Some) }
}

fn failed(verb: &'static str, id: ScheduleId) -> impl FnOnce(sqlx::Error) -> Error {
    move |error| Error::internal(format!("{verb} the schedule {id}"), error)
}

#[cfg(test)]
mod tests;
