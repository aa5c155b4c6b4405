//! Rows of operations: the queue, its leases, and what the API shows.
//!
//! A controller holds an operation by a lease, timed by the database's clock. Each claim draws a fence from a counter
//! of the store, and every later write is conditional on it (`where fence = …`), so that a controller that has lost its
//! lease can write nothing.

use sqlx::AssertSqlSafe;

use super::{Store, from_micros};
use crate::error::{Error, Result};
use crate::ids::{BackupId, InstanceId, OperationId, ProjectId};
use crate::model::operations::{ChangedOperation, Lane, NewOperation, Operation, Stage, Step};
use crate::store::sql::{Connection, News, Row, query};

pub mod lease;
pub mod writes;

/// Counter of fences.
const FENCE: &str = "fence";
/// Counter of operations, for the order of the queue.
const SEQUENCE: &str = "operation";
/// Counter of changes, for watching.
const CHANGE: &str = "change";
/// How many of an instance's operations are listed.
const SHOWN: i64 = 100;

/// Status of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No controller has claimed it yet.
    Queued,
    /// Its steps are being executed.
    Running,
    /// A step has failed, and the undos are being executed.
    Undoing,
    /// An undo keeps failing. It is retried at long intervals; an operator should look at it.
    Stuck,
    /// All steps are done.
    Done,
    /// A step has failed, and all undos are done.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl Status {
    const ALL: [Self; 7] =
        [Self::Queued, Self::Running, Self::Undoing, Self::Stuck, Self::Done, Self::Failed, Self::Cancelled];

    /// The text by which it is stored and shown.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Undoing => "undoing",
            Self::Stuck => "stuck",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn from_tag(tag: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.tag() == tag)
    }

    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

impl Store {
    /// Adds an operation to the queue, in the caller's transaction. The caller must commit and then nudge the runner;
    /// on an error it must roll back.
    ///
    /// # Errors
    /// 422 if its lane is exclusive and another such operation is active on one of its targets.
    pub async fn enqueue(&self, conn: &mut Connection, new: NewOperation) -> Result<OperationId> {
        conn.announce(News::Work);
        let id = OperationId::random();
        let failed = |error| Error::internal(format!("write operation {} ({id})", new.kind), error);
        let [seq, changed] = draw(conn, [SEQUENCE, CHANGE]).await?;
        query(
            "insert into operation (id, seq, kind, version, project_id, request_id, user_id, active, status, state, \
             position, lease_until, fence, not_before, cancel, created, changed) \
             values ($1, $2, $3, $4, $5, $6, $7, true, 'queued', $8, 0, 0, 0, 0, false, $9, $10)",
        )
        .bind(id.to_string())
        .bind(seq)
        .bind(new.kind)
        .bind(i64::from(new.version))
        .bind(&new.origin.project.0)
        .bind(&new.origin.request_id)
        .bind(&new.origin.user_id)
        .bind(new.state.to_string())
        .bind(self.now_micros())
        .bind(changed)
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
        insert_steps(conn, id, &new.plan).await.map_err(failed)?;
        let held = insert_targets(conn, id, seq, new.lane, &new.origin.targets).await.map_err(failed)?;
        if held == new.origin.targets.len() {
            return Ok(id);
        }
        for target in &new.origin.targets {
            if let Some(kind) = exclusive_operation(conn, *target, id).await? {
                return Err(Error::Unprocessable(format!(
                    "Instance {target} is not currently available for an action to be performed \
                     (operation {kind} is in progress)."
                )));
            }
        }
        Err(Error::Internal { attempt: format!("hold the targets of operation {} ({id})", new.kind), source: None })
    }

    /// Cancels the operations of these lanes on an instance: queued ones at once, a running one at its next safe point.
    /// A new operation may be enqueued in the same transaction; it starts once the running one has ended.
    pub async fn cancel_active(&self, conn: &mut Connection, instance: InstanceId, lanes: &[Lane]) -> Result<()> {
        let failed = |error| Error::internal(format!("cancel the operations of instance {instance}"), error);
        conn.announce(News::Work);
        for lane in lanes {
            let [change] = draw(conn, [CHANGE]).await?;
            query(
                "update operation set \
                 cancel = true, changed = $3, \
                 finished = case status when 'queued' then $4 else finished end, \
                 state = case status when 'queued' then '{}' else state end, \
                 active = status <> 'queued', \
                 status = case status when 'queued' then 'cancelled' else status end \
                 where active and id in \
                 (select operation_id from operation_target where resource = $1 and lane = $2 and active)",
            )
            .bind(instance.to_string())
            .bind(lane.tag())
            .bind(change)
            .bind(self.now_micros())
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
            // An operation that still runs stays active, so its successor is not claimed yet; but it is no longer
            // exclusive, so a successor can be enqueued.
            query(
                "update operation_target set exclusive = false, \
                 active = (select o.active from operation o where o.id = operation_target.operation_id), \
                 state = case when (select o.active from operation o where o.id = operation_target.operation_id) \
                 then state else 'null' end where active and operation_id in \
                 (select operation_id from operation_target where resource = $1 and lane = $2 and active)",
            )
            .bind(instance.to_string())
            .bind(lane.tag())
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
        }
        Ok(())
    }

    /// Number of active operations, by kind and status.
    pub async fn count_operations(&self) -> Result<Vec<(String, String, u64)>> {
        let failed = |error| Error::internal("count the operations", error);
        let sql = "select kind, status, count(*) from operation where active group by kind, status";
        let rows = query(sql).fetch_all(&self.read).await.map_err(failed)?;
        let read = |row: &Row| -> sqlx::Result<_> {
            Ok((row.try_get(0)?, row.try_get(1)?, row.try_get::<i64, _>(2)?.unsigned_abs()))
        };
        rows.iter().map(read).collect::<sqlx::Result<_>>().map_err(failed)
    }

    /// The newest operations of an instance with their steps, newest first, and the number of the last change of any
    /// operation.
    pub async fn list_operations(&self, instance: InstanceId) -> Result<(Vec<Operation>, i64)> {
        let failed = |error| Error::internal(format!("list the operations of instance {instance}"), error);
        let sql = AssertSqlSafe(format!(
            "{SELECT} from (select {COLUMNS} from operation where id in (select operation_id from operation_target \
             where resource = $1 order by seq desc limit $2)) o {STEPS} order by o.seq desc, s.n, s.target"
        ));
        let rows = query(sql).bind(instance.to_string()).bind(SHOWN).fetch_all(&self.read).await.map_err(failed)?;
        versioned(&rows)
    }

    /// The operation that takes a backup, or has taken it, and the last one that verifies it; as of an instance.
    pub async fn list_backup_operations(&self, backup: BackupId) -> Result<(Vec<Operation>, i64)> {
        let failed = |error| Error::internal(format!("list the operations of backup {backup}"), error);
        let sql = AssertSqlSafe(format!(
            "{SELECT} from (select {COLUMNS} from operation where id in (select operation_id from backup where id = $1 \
             union select verification_operation_id from backup where id = $1)) o {STEPS} \
             order by o.seq desc, s.n, s.target"
        ));
        let rows = query(sql).bind(backup.to_string()).fetch_all(&self.read).await.map_err(failed)?;
        versioned(&rows)
    }

    /// The number of the last change of any operation.
    pub async fn last_change(&self) -> Result<i64> {
        let row = query("select value from counter where name = $1").bind(CHANGE).fetch_optional(&self.read).await;
        row.and_then(|row| row.map_or(Ok(0), |row| row.try_get(0)))
            .map_err(|error| Error::internal("read the number of the last change", error))
    }

    /// At most `limit` operations, of a project or of all, that have changed since the change with this number, in the
    /// order of their changes.
    pub async fn changed_operations(
        &self,
        project: Option<&ProjectId>,
        since: i64,
        limit: u32,
    ) -> Result<Vec<ChangedOperation>> {
        let sql = AssertSqlSafe(format!(
            "{SELECT} from (select {COLUMNS} from operation where ($1 is null or project_id = $1) and changed > $2 \
             order by changed limit $3) o {STEPS} order by o.changed, o.seq, s.n, s.target"
        ));
        let query = query(sql).bind(project.map(|project| project.0.as_str())).bind(since).bind(i64::from(limit));
        let rows = query.fetch_all(&self.read).await;
        operations(&rows.map_err(|error| Error::internal("list what has changed", error))?)
    }

    /// The active operations, of a project or of all, in the order of the queue.
    pub async fn active_operations(&self, project: Option<&ProjectId>) -> Result<Vec<ChangedOperation>> {
        let sql = AssertSqlSafe(format!(
            "{SELECT} from (select {COLUMNS} from operation where ($1 is null or project_id = $1) and active) o \
             {STEPS} order by o.seq, s.n, s.target"
        ));
        let rows = query(sql).bind(project.map(|project| project.0.as_str())).fetch_all(&self.read).await;
        operations(&rows.map_err(|error| Error::internal("list what is under way", error))?)
    }

    /// Draws a fence: a number greater than all before.
    pub async fn draw_fence(&self, conn: &mut Connection) -> Result<i64> {
        draw(conn, [FENCE]).await.map(|[fence]| fence)
    }
}

const COLUMNS: &str = "id, seq, kind, status, created, started, finished, error, position, changed";
const SELECT: &str = "select o.id, o.kind, o.status, o.created, o.started, o.finished, o.error, o.position, o.changed, s.n, s.target, \
     s.name as step_name, s.status as step_status, s.started as step_started, s.finished as step_finished, \
     s.progress as step_progress, s.error as step_error";
const STEPS: &str = "join operation_step s on s.operation_id = o.id";

/// The operations, and the number of the last change of one of them.
fn versioned(rows: &[Row]) -> Result<(Vec<Operation>, i64)> {
    let changed = operations(rows)?;
    let version = changed.iter().map(|operation| operation.changed).max().unwrap_or_default();
    Ok((changed.into_iter().map(|changed| changed.operation).collect(), version))
}

/// Groups rows, which are sorted by operation and stage.
fn operations(rows: &[Row]) -> Result<Vec<ChangedOperation>> {
    let failed = |error| Error::internal("read operations", error);
    let no_id = |error| Error::internal("read an operation's id", error);
    let mut all: Vec<ChangedOperation> = Vec::new();
    for row in rows {
        let id: OperationId = row.try_get::<String, _>("id").map_err(failed)?.parse().map_err(no_id)?;
        if all.last().is_none_or(|last| last.operation.id != id) {
            let changed = row.try_get("changed").map_err(failed)?;
            all.push(ChangedOperation { changed, operation: operation(row, id).map_err(failed)? });
        }
        let Some(ChangedOperation { operation, .. }) = all.last_mut() else { continue };
        let target: String = row.try_get("target").map_err(failed)?;
        let step = step(row, target.parse().map_err(no_id)?).map_err(failed)?;
        if is_current(operation, &step, row.try_get("n").map_err(failed)?, row.try_get("position").map_err(failed)?) {
            operation.step = Some(step.name.clone());
        }
        operation.steps.push(step);
    }
    Ok(all)
}

fn operation(row: &Row, id: OperationId) -> sqlx::Result<Operation> {
    let time = |column| row.try_get::<Option<i64>, _>(column).map(|time| time.map(from_micros));
    Ok(Operation {
        id,
        kind: row.try_get("kind")?,
        status: row.try_get("status")?,
        created: from_micros(row.try_get("created")?),
        started: time("started")?,
        finished: time("finished")?,
        error: row.try_get("error")?,
        step: None,
        steps: Vec::new(),
    })
}

fn step(row: &Row, target: InstanceId) -> sqlx::Result<Step> {
    let time = |column| row.try_get::<Option<i64>, _>(column).map(|time| time.map(from_micros));
    let progress: Option<String> = row.try_get("step_progress")?;
    Ok(Step {
        name: row.try_get("step_name")?,
        target,
        status: row.try_get("step_status")?,
        started: time("step_started")?,
        finished: time("step_finished")?,
        progress: progress.and_then(|text| serde_json::from_str(&text).ok()),
        error: row.try_get("step_error")?,
    })
}

/// Whether `step`, of stage `n`, is the current one: the next, the one that is being undone, or the one that failed.
fn is_current(operation: &Operation, step: &Step, n: i64, position: i64) -> bool {
    match Status::from_tag(&operation.status) {
        None | Some(Status::Queued | Status::Done) => false,
        Some(Status::Running | Status::Cancelled) => n == position,
        Some(Status::Undoing | Status::Stuck) => n + 1 == position,
        Some(Status::Failed) => step.status == "failed",
    }
}

/// Inserts the steps of a new operation, at least one.
async fn insert_steps(conn: &mut Connection, id: OperationId, plan: &[Stage]) -> sqlx::Result<()> {
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for (n, stage) in plan.iter().enumerate() {
        for target in &stage.targets {
            rows.push(format!("($1, {n}, ${}, ${}, 'pending', 1)", values.len() + 2, values.len() + 3));
            values.extend([target.to_string(), stage.step.clone()]);
        }
    }
    let sql = format!(
        "insert into operation_step (operation_id, n, target, name, status, attempt) values {}",
        rows.join(", ")
    );
    let insert = query(AssertSqlSafe(sql)).bind(id.to_string());
    values.into_iter().fold(insert, |insert, value| insert.bind(value)).execute(conn).await?;
    Ok(())
}

/// Inserts the targets of a new operation. Returns the number of inserted rows, which is smaller than that of the
/// targets if the unique index found another exclusive operation on one of them.
async fn insert_targets(
    conn: &mut Connection,
    id: OperationId,
    seq: i64,
    lane: Lane,
    targets: &[InstanceId],
) -> sqlx::Result<usize> {
    let rows: Vec<String> = (5..targets.len() + 5).map(|n| format!("($1, ${n}, $2, $3, true, $4, 'null')")).collect();
    let sql = format!(
        "insert into operation_target (operation_id, resource, seq, lane, active, exclusive, state) values {} \
         on conflict do nothing",
        rows.join(", ")
    );
    let insert = query(AssertSqlSafe(sql)).bind(id.to_string()).bind(seq).bind(lane.tag()).bind(lane.is_exclusive());
    let insert = targets.iter().fold(insert, |insert, target| insert.bind(target.to_string()));
    let done = insert.execute(conn).await?;
    Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
}

/// Kind of the exclusive operation on an instance, except `id`.
async fn exclusive_operation(conn: &mut Connection, instance: InstanceId, id: OperationId) -> Result<Option<String>> {
    query(
        "select o.kind from operation_target t join operation o on o.id = t.operation_id \
         where t.resource = $1 and t.exclusive and o.id <> $2",
    )
    .bind(instance.to_string())
    .bind(id.to_string())
    .fetch_optional(conn)
    .await
    .and_then(|row| row.map(|row: Row| row.try_get(0)).transpose())
    .map_err(|error| Error::internal(format!("look for operations on instance {instance}"), error))
}

/// Draws the next number of each counter.
async fn draw<const N: usize>(conn: &mut Connection, counters: [&'static str; N]) -> Result<[i64; N]> {
    if counters.contains(&CHANGE) {
        conn.announce(News::Changed);
    }
    let failed = |error| Error::internal(format!("draw the next {} numbers", counters.join(" and ")), error);
    let rows: Vec<String> = (1..=N).map(|n| format!("(${n}, 1)")).collect();
    let sql = AssertSqlSafe(format!(
        "insert into counter (name, value) values {} \
         on conflict (name) do update set value = counter.value + 1 returning name, value",
        rows.join(", ")
    ));
    let insert = counters.iter().fold(query(sql), |insert, counter| insert.bind(*counter));
    let mut drawn = [0; N];
    for row in insert.fetch_all(conn).await.map_err(failed)? {
        let name: String = row.try_get("name").map_err(failed)?;
        let value = row.try_get("value").map_err(failed)?;
        counters.iter().zip(&mut drawn).filter(|(counter, _)| **counter == name).for_each(|(_, drawn)| *drawn = value);
    }
    Ok(drawn)
}
