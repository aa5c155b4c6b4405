//! Rows of backups. A list and a show are one query each.
//!
//! Methods with `conn` take part in the caller's transaction. Whatever an operation writes is conditional on the state: a backup
//! that was given up meanwhile stays so.

use sqlx::AssertSqlSafe;
use time::OffsetDateTime;

use super::instances::rows::{column, maybe_parsed, maybe_text, parsed, tagged, time, unsigned};
use super::{Store, from_micros};
use crate::error::{Error, Result};
use crate::ids::{BackupId, DatastoreId, InstanceId, OperationId, ProjectId, ScheduleId, VersionId};
use crate::model::backups::{Backup, BackupSource, BackupState, StoredBackup, Verification, VerificationState};
use crate::store::quota::Amounts;
use crate::store::sql::{Connection, Row, Target, query};

const SELECT: &str = "select b.id, b.project_id, b.name, b.description, b.instance_id, b.datastore_id, b.datastore_name, \
     b.version_id, b.version_name, b.version_number, b.major, b.volume_gib, b.root_by, b.state, b.operation_id, b.schedule_id, b.recipient, \
     b.identity, b.run, b.manifest_sum, b.data_bytes, b.stored_bytes, b.position, b.checkpoint, b.memory_bytes, b.fault, b.created, b.updated, b.parent_id, \
     b.verification, b.verification_operation_id, b.verification_at, b.verification_fault from backup b";
/// The most backups that build on one another: a restore reads all of them, and misses what one of them lacks.
pub const LONGEST_CHAIN: usize = 32;
/// Where it stands how a verification has ended: on the backup, and on the schedule that had made it.
const VERIFIED: [&str; 2] = ["backup", "backup_schedule"];
/// Those that are being taken.
const RUNNING: &str = "state in ('NEW', 'BUILDING', 'SAVING')";

/// What is stored of a new backup.
#[derive(Clone, Debug)]
pub struct NewRow {
    /// Its id, made by the caller.
    pub id: BackupId,
    pub project: ProjectId,
    pub name: String,
    pub description: Option<String>,
    pub instance: InstanceId,
    pub source: BackupSource,
    /// The backup that it builds on.
    pub parent: Option<BackupId>,
    /// The operation that takes it.
    pub operation: OperationId,
    /// The schedule that makes it.
    pub schedule: Option<ScheduleId>,
    /// age's public key.
    pub recipient: String,
    /// The secret key, sealed.
    pub identity: String,
}

/// Which backups a list shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter<'a> {
    /// Only this project's.
    pub project: Option<&'a ProjectId>,
    /// Only those of the instance with this id.
    pub instance: Option<&'a str>,
    /// Only those of the datastore with this name or id.
    pub datastore: Option<&'a str>,
}

/// A backup whose objects are to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwanted {
    pub id: BackupId,
    pub project: ProjectId,
    pub state: BackupState,
}

/// Not a counter: the number of the storage that the backups of this store are in.
const STORAGE: &str = "backup_storage";

impl Store {
    /// The number of the storage that the backups are in; `None` before one was used.
    pub async fn backup_storage(&self) -> Result<Option<i64>> {
        let failed = |error| Error::internal("look for the storage of the backups", error);
        let row = query("select value from counter where name = $1").bind(STORAGE).fetch_optional(&self.read).await;
        row.map_err(failed)?.map(|row| row.try_get(0)).transpose().map_err(failed)
    }

    /// Remembers the storage that the backups are in, unless one is remembered; which one it is now.
    pub async fn keep_backup_storage(&self, storage: i64) -> Result<i64> {
        let failed = |error| Error::internal("remember the storage of the backups", error);
        let mut tx = self.begin().await?;
        query("insert into counter (name, value) values ($1, $2) on conflict (name) do nothing")
            .bind(STORAGE)
            .bind(storage)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok(self.backup_storage().await?.unwrap_or(storage))
    }
}

impl Store {
    /// Inserts a backup, and says at what time; quota is the caller's, in the same transaction.
    pub async fn insert_backup(&self, conn: &mut Connection, new: &NewRow) -> Result<OffsetDateTime> {
        let (created, source) = (self.now_micros(), &new.source);
        query(
            "insert into backup (id, project_id, name, description, instance_id, datastore_id, datastore_name, version_id, \
             version_name, version_number, major, volume_gib, root_by, state, operation_id, recipient, identity, \
             leftovers, created, updated, parent_id, schedule_id) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'NEW', $14, $15, $16, false, $17, $17, $18, $19)",
        )
        .bind(new.id.to_string())
        .bind(&new.project.0)
        .bind(&new.name)
        .bind(&new.description)
        .bind(new.instance.to_string())
        .bind(source.datastore_id.to_string())
        .bind(&source.datastore)
        .bind(source.version_id.to_string())
        .bind(&source.version)
        .bind(&source.version_number)
        .bind(&source.major)
        .bind(signed(source.volume_gib))
        .bind(&source.root_by)
        .bind(new.operation.to_string())
        .bind(&new.recipient)
        .bind(&new.identity)
        .bind(created)
        .bind(new.parent.map(|parent| parent.to_string()))
        .bind(new.schedule.map(|id| id.to_string()))
        .execute(conn)
        .await
        .map_err(failed("insert", new.id))?;
        Ok(from_micros(created))
    }

    /// A backup.
    pub async fn get_backup(&self, id: BackupId) -> Result<Option<Backup>> {
        read(&self.read, id).await
    }

    /// A backup, in a transaction that depends on it.
    pub async fn backup(&self, conn: &mut Connection, id: BackupId) -> Result<Option<Backup>> {
        read(conn, id).await
    }

    /// What an increment builds on, and itself: the full backup first. Empty when there is none.
    pub async fn get_backup_chain(&self, id: BackupId) -> Result<Vec<Backup>> {
        chain(&self.read, "$1", id.to_string()).await
    }

    /// The same, in a transaction that depends on it.
    pub async fn backup_chain(&self, conn: &mut Connection, id: BackupId) -> Result<Vec<Backup>> {
        chain(conn, "$1", id.to_string()).await
    }

    /// What the newest complete backup of a schedule builds on, and itself: the full one first. Empty when there is none.
    pub async fn get_scheduled_chain(&self, schedule: ScheduleId) -> Result<Vec<Backup>> {
        let newest = "(select n.id from backup n where n.schedule_id = $1 and n.state = 'COMPLETED' \
             order by n.created desc, n.id desc limit 1)";
        chain(&self.read, newest, schedule.to_string()).await
    }

    /// The increments on a backup, those on them, and so on.
    pub async fn increments_on(&self, conn: &mut Connection, id: BackupId) -> Result<Vec<Backup>> {
        let sql = AssertSqlSafe(format!(
            "with recursive chain (id, depth) as (select id, 1 from backup where parent_id = $1 \
             union all select c.id, chain.depth + 1 from backup c join chain on c.parent_id = chain.id \
             where chain.depth <= {LONGEST_CHAIN}) {SELECT} join chain on chain.id = b.id order by b.created, b.id"
        ));
        let rows = query(sql).bind(id.to_string()).fetch_all(conn).await.map_err(failed("read what builds on", id))?;
        rows.iter().map(backup).collect()
    }

    /// The newest complete backup of an instance on which an increment can build, of this version.
    pub async fn last_backup(
        &self,
        conn: &mut Connection,
        instance: InstanceId,
        version_number: &str,
    ) -> Result<Option<Backup>> {
        let sql = AssertSqlSafe(format!(
            "{SELECT} where b.instance_id = $1 and b.state = 'COMPLETED' and b.checkpoint is not null \
             and b.version_number = $2 order by b.created desc, b.id desc limit 1"
        ));
        let row = query(sql).bind(instance.to_string()).bind(version_number).fetch_optional(conn).await;
        let row = row.map_err(|error| Error::internal(format!("look for the last backup of {instance}"), error))?;
        row.map(|row| backup(&row)).transpose()
    }

    /// The newest complete backup of an instance that has this name.
    pub async fn backup_named(
        &self,
        conn: &mut Connection,
        instance: InstanceId,
        name: &str,
    ) -> Result<Option<BackupId>> {
        let row = query(
            "select id from backup where instance_id = $1 and name = $2 and state = 'COMPLETED' \
             order by created desc, id desc limit 1",
        );
        let row = row.bind(instance.to_string()).bind(name).fetch_optional(conn).await;
        let row =
            row.map_err(|error| Error::internal(format!("look for a backup of {instance} by its name"), error))?;
        row.map(|row| parsed(&row, "id").map(BackupId)).transpose()
    }

    /// At most `limit` backups after the first `offset`, by last change descending.
    pub async fn list_backups(&self, filter: Filter<'_>, offset: u64, limit: u32) -> Result<Vec<Backup>> {
        let sql = AssertSqlSafe(format!(
            "{SELECT} where ($1 is null or b.project_id = $1) \
             and ($2 is null or b.instance_id = $2) and ($3 is null or b.datastore_name = $3 or b.datastore_id = $3) \
             order by b.updated desc, b.id desc limit $4 offset $5"
        ));
        let rows = query(sql)
            .bind(filter.project.map(|project| project.0.as_str()))
            .bind(filter.instance)
            .bind(filter.datastore)
            .bind(i64::from(limit))
            .bind(i64::try_from(offset).unwrap_or(i64::MAX))
            .fetch_all(&self.read)
            .await
            .map_err(|error| Error::internal("list backups", error))?;
        rows.iter().map(backup).collect()
    }

    /// Moves a running backup on. `false`: it was given up, or is gone.
    pub async fn set_backup_state(&self, conn: &mut Connection, id: BackupId, state: BackupState) -> Result<bool> {
        let sql = AssertSqlSafe(format!(
            "update backup set updated = case state when $2 then updated else $3 end, state = $2 where id = $1 and {RUNNING}"
        ));
        let done = query(sql).bind(id.to_string()).bind(state.tag()).bind(self.now_micros()).execute(conn).await;
        Ok(done.map_err(failed("move on", id))?.rows_affected() == 1)
    }

    /// That a running backup is whole. `false`: it was given up, or is gone.
    pub async fn complete_backup(&self, conn: &mut Connection, id: BackupId, stored: &StoredBackup) -> Result<bool> {
        let sql = AssertSqlSafe(format!(
            "update backup set state = 'COMPLETED', run = $2, manifest_sum = $3, data_bytes = $4, stored_bytes = $5, \
             position = $6, updated = $7, checkpoint = $8, memory_bytes = $9 where id = $1 and {RUNNING}"
        ));
        let done = query(sql)
            .bind(id.to_string())
            .bind(&stored.run)
            .bind(&stored.manifest_sum)
            .bind(signed(stored.data_bytes))
            .bind(signed(stored.stored_bytes))
            .bind(&stored.position)
            .bind(self.now_micros())
            .bind(&stored.checkpoint)
            .bind(stored.memory_bytes.map(signed))
            .execute(conn)
            .await
            .map_err(failed("complete", id))?;
        Ok(done.rows_affected() == 1)
    }

    /// That the operation has not taken its backup, and why.
    pub async fn fail_backup(&self, conn: &mut Connection, operation: OperationId, fault: &str) -> Result<()> {
        self.fail_running(conn, "operation_id", operation.to_string(), fault).await
    }

    /// That the running backup of an instance is given up, and why.
    pub async fn fail_backups_of(&self, conn: &mut Connection, instance: InstanceId, fault: &str) -> Result<()> {
        self.fail_running(conn, "instance_id", instance.to_string(), fault).await
    }

    async fn fail_running(
        &self,
        conn: &mut Connection,
        column: &'static str,
        value: String,
        fault: &str,
    ) -> Result<()> {
        let sql = AssertSqlSafe(format!(
            "update backup set state = 'FAILED', fault = $2, updated = $3, leftovers = true where {column} = $1 and {RUNNING}"
        ));
        let done = query(sql).bind(value).bind(fault).bind(self.now_micros()).execute(conn).await;
        done.map_err(|error| Error::internal("give up a backup", error))?;
        Ok(())
    }

    /// That its objects are to be removed.
    pub async fn begin_backup_deletion(&self, conn: &mut Connection, id: BackupId) -> Result<()> {
        query("update backup set state = 'DELETING', updated = $2 where id = $1")
            .bind(id.to_string())
            .bind(self.now_micros())
            .execute(conn)
            .await
            .map_err(failed("delete", id))?;
        Ok(())
    }

    /// The kind of an active operation that reads it: `restore_instance` or `verify_backup`.
    pub async fn backup_reader(&self, conn: &mut Connection, id: BackupId) -> Result<Option<String>> {
        // What an operation works with is in its state.
        let sql = "select kind from operation where active and kind in ('restore_instance', 'verify_backup') \
             and state like '%\"backup\":\"' || $1 || '\"%' order by kind desc limit 1";
        let row = query(sql).bind(id.to_string()).fetch_optional(conn).await;
        row.and_then(|row| row.map(|row| row.try_get(0)).transpose()).map_err(failed("look for readers of", id))
    }

    /// How many backups are being verified.
    pub async fn count_verifications(&self, conn: &mut Connection) -> Result<u64> {
        let row = query("select count(*) from operation where active and kind = 'verify_backup'").fetch_one(conn).await;
        let count = row.and_then(|row| row.try_get::<i64, _>(0));
        count.map(i64::unsigned_abs).map_err(|error| Error::internal("count the verifications of backups", error))
    }

    /// That this operation verifies it. What is shown of the backup else stays as it was.
    pub async fn begin_verification(
        &self,
        conn: &mut Connection,
        backup: &Backup,
        operation: OperationId,
    ) -> Result<()> {
        let now = self.now_micros();
        query(
            "update backup set verification = 'running', verification_operation_id = $2, verification_at = $3, \
             verification_fault = null where id = $1",
        )
        .bind(backup.id.to_string())
        .bind(operation.to_string())
        .bind(now)
        .execute(&mut *conn)
        .await
        .map_err(failed("begin to verify", backup.id))?;
        self.begin_scheduled_verification(conn, backup, operation, now).await
    }

    /// What a verification that runs has come to: `None` it has passed, else why it failed. One that has ended stays as it is.
    pub async fn end_verification(
        &self,
        conn: &mut Connection,
        operation: OperationId,
        fault: Option<&str>,
    ) -> Result<()> {
        let state = if fault.is_some() { VerificationState::Failed } else { VerificationState::Passed };
        let now = self.now_micros();
        for table in VERIFIED {
            let sql = AssertSqlSafe(format!(
                "update {table} set verification = $2, verification_at = $3, verification_fault = $4 \
                 where verification_operation_id = $1 and verification = 'running'"
            ));
            query(sql)
                .bind(operation.to_string())
                .bind(state.tag())
                .bind(now)
                .bind(fault)
                .execute(&mut *conn)
                .await
                .map_err(|error| Error::internal("end the verification of a backup", error))?;
        }
        Ok(())
    }

    /// Gives up the verifications of which no operation is active any more.
    pub async fn end_orphaned_verifications(&self, conn: &mut Connection, fault: &str) -> Result<()> {
        let now = self.now_micros();
        for table in VERIFIED {
            let sql = AssertSqlSafe(format!(
                "update {table} set verification = 'failed', verification_at = $1, verification_fault = $2 \
                 where verification = 'running' and not exists \
                 (select 1 from operation o where o.id = {table}.verification_operation_id and o.active)"
            ));
            query(sql)
                .bind(now)
                .bind(fault)
                .execute(&mut *conn)
                .await
                .map_err(|error| Error::internal("give up verifications of backups", error))?;
        }
        Ok(())
    }

    /// The backups whose objects are to be removed.
    pub async fn list_unwanted_backups(&self) -> Result<Vec<Unwanted>> {
        let rows = query(
            "select id, project_id, state from backup where state <> 'COMPLETED' and \
             (state in ('DELETING', 'DELETE_FAILED') or state = 'FAILED' and leftovers) order by updated, id",
        )
        .fetch_all(&self.read)
        .await
        .map_err(|error| Error::internal("list the backups that are to be removed", error))?;
        let read = |row: &Row| {
            Ok(Unwanted {
                id: BackupId(parsed(row, "id")?),
                project: ProjectId(column(row, "project_id")?),
                state: tagged(row, "state", BackupState::from_tag)?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// That the objects of an unwanted backup were removed. One that was to be deleted is gone, and gives back its quota.
    pub async fn backup_removed(&self, conn: &mut Connection, unwanted: &Unwanted) -> Result<()> {
        let failed = |error| Error::internal(format!("remove backup {}", unwanted.id), error);
        if unwanted.state == BackupState::Failed {
            // It may be being deleted meanwhile, which looks at its objects again.
            let kept = query("update backup set leftovers = false where id = $1 and state = 'FAILED'");
            kept.bind(unwanted.id.to_string()).execute(conn).await.map_err(failed)?;
            return Ok(());
        }
        let gone = query("delete from backup where id = $1 and state in ('DELETING', 'DELETE_FAILED')");
        let done = gone.bind(unwanted.id.to_string()).execute(&mut *conn).await.map_err(failed)?;
        if done.rows_affected() == 1 {
            self.count_use(conn, &unwanted.project, Amounts::backup().negated()).await?;
        }
        Ok(())
    }

    /// That the objects of a backup that is to be deleted could not be removed, and why.
    pub async fn backup_not_removed(&self, conn: &mut Connection, id: BackupId, fault: &str) -> Result<()> {
        query(
            "update backup set state = 'DELETE_FAILED', fault = $2, updated = $3 \
             where id = $1 and state in ('DELETING', 'DELETE_FAILED')",
        )
        .bind(id.to_string())
        .bind(fault)
        .bind(self.now_micros())
        .execute(conn)
        .await
        .map_err(failed("write why it is still there: ", id))?;
        Ok(())
    }
}

async fn read<'a>(target: impl Into<Target<'a>>, id: BackupId) -> Result<Option<Backup>> {
    let sql = AssertSqlSafe(format!("{SELECT} where b.id = $1"));
    let row = query(sql).bind(id.to_string()).fetch_optional(target).await.map_err(failed("read", id))?;
    row.map(|row| backup(&row)).transpose()
}

/// `last` says in SQL which one comes last, by `$1`.
async fn chain<'a>(target: impl Into<Target<'a>>, last: &'static str, value: String) -> Result<Vec<Backup>> {
    let sql = AssertSqlSafe(format!(
        "with recursive chain (id, parent_id, depth) as (select id, parent_id, 0 from backup where id = {last} \
         union all select p.id, p.parent_id, chain.depth + 1 from backup p join chain on p.id = chain.parent_id \
         where chain.depth <= {LONGEST_CHAIN}) {SELECT} join chain on chain.id = b.id order by chain.depth desc"
    ));
    let rows = query(sql).bind(&value).fetch_all(target).await;
    let rows = rows.map_err(|error| Error::internal(format!("read the chain of backup or schedule {value}"), error))?;
    rows.iter().map(backup).collect()
}

/// One of [`SELECT`].
fn backup(row: &Row) -> Result<Backup> {
    Ok(Backup {
        id: BackupId(parsed(row, "id")?),
        project: ProjectId(column(row, "project_id")?),
        name: column(row, "name")?,
        description: column(row, "description")?,
        instance: InstanceId(parsed(row, "instance_id")?),
        source: BackupSource {
            datastore_id: DatastoreId(parsed(row, "datastore_id")?),
            datastore: column(row, "datastore_name")?,
            version_id: VersionId(parsed(row, "version_id")?),
            version: column(row, "version_name")?,
            version_number: column(row, "version_number")?,
            major: column(row, "major")?,
            volume_gib: unsigned(row, "volume_gib")?,
            root_by: column(row, "root_by")?,
        },
        parent: maybe_parsed(row, "parent_id")?.map(BackupId),
        state: tagged(row, "state", BackupState::from_tag)?,
        operation: OperationId(parsed(row, "operation_id")?),
        schedule: maybe_parsed(row, "schedule_id")?.map(ScheduleId),
        recipient: column(row, "recipient")?,
        identity: column(row, "identity")?,
        stored: stored(row)?,
        fault: column(row, "fault")?,
        verification: verification(row)?,
        created: time(row, "created")?,
        updated: time(row, "updated")?,
    })
}

fn verification(row: &Row) -> Result<Option<Verification>> {
    if maybe_text(row, "verification")?.is_none() {
        return Ok(None);
    }
    Ok(Some(Verification {
        state: tagged(row, "verification", VerificationState::from_tag)?,
        at: time(row, "verification_at")?,
        operation: OperationId(parsed(row, "verification_operation_id")?),
        fault: column(row, "verification_fault")?,
    }))
}

fn stored(row: &Row) -> Result<Option<StoredBackup>> {
    let Some(run) = column(row, "run")? else { return Ok(None) };
    Ok(Some(StoredBackup {
        run,
        manifest_sum: column(row, "manifest_sum")?,
        data_bytes: unsigned(row, "data_bytes")?,
        stored_bytes: unsigned(row, "stored_bytes")?,
        position: column(row, "position")?,
        checkpoint: column(row, "checkpoint")?,
        memory_bytes: column::<Option<i64>>(row, "memory_bytes")?.map(i64::unsigned_abs),
    }))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn failed(verb: &'static str, id: BackupId) -> impl FnOnce(sqlx::Error) -> Error {
    move |error| Error::internal(format!("{verb} backup {id}"), error)
}

#[cfg(test)]
mod tests;
