//! What the runner writes: claims, and everything under a claim.

use std::time::Duration;

use serde_json::Value;
use sqlx::AssertSqlSafe;

use super::{CHANGE, FENCE, Status, draw};
use crate::error::{Error, Result};
use crate::ids::{InstanceId, OperationId, ProjectId};
use crate::store::sql::{Connection, News, Row, Transaction, query};
use crate::store::{Store, database_now, span};

/// A claim of an operation. Whoever writes under it finds out whether it still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which operation.
    pub id: OperationId,
    /// The number drawn at the claim.
    pub fence: i64,
}

/// An operation as its runner reads it at the claim.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The claim.
    pub lease: Lease,
    /// What it does.
    pub kind: String,
    /// Version of its steps and state.
    pub version: u16,
    /// On what.
    pub instance: InstanceId,
    /// Whose that is.
    pub project: ProjectId,
    /// The request that asked for it.
    pub request_id: String,
    /// The user who asked for it.
    pub user_id: String,
    /// Where it stands; never queued.
    pub status: Status,
    /// Its state after the last step that is done.
    pub state: Value,
    /// The names of its steps.
    pub steps: Vec<String>,
    /// Index of the next step; while undoing, one more than that of the next undo.
    pub position: usize,
    /// Attempt of the step at `position`.
    pub attempt: u32,
    /// Why it failed.
    pub error: Option<String>,
    /// Whether it was asked to end.
    pub cancel: bool,
}

/// When a step, or its undo, first began.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// How long ago that is; zero the first time.
    pub ago: Duration,
    /// Whether it had begun before.
    pub again: bool,
}

/// Kind and version of an operation as one text, by which a runner says what it knows.
pub fn known(kind: &str, version: u16) -> String {
    format!("{kind}/{version}")
}

impl Store {
    /// Gives up the leases that an earlier life of this controller held.
    ///
    /// # Errors
    /// Internal.
    pub async fn release_own_leases(&self, owner: &str) -> Result<()> {
        query(
            "update operation set lease_until = 0 \
             where owner = $1 and status in ('queued', 'running', 'undoing', 'stuck')",
        )
        .bind(owner)
        .execute(&self.write)
        .await
        .map_err(|error| Error::internal("give up the leases of this controller's earlier life", error))?;
        Ok(())
    }

    /// Takes the oldest operation that can be taken: of a kind in `known`, without a live lease, due, and the first of
    /// those that are active on its instance.
    ///
    /// # Errors
    /// Internal.
    pub async fn claim_operation(&self, owner: &str, lease: Duration, known: &[String]) -> Result<Option<Claimed>> {
        let failed = |error| Error::internal("claim an operation", error);
        let mut tx = self.begin().await?;
        let now = database_now(&mut tx).await?;
        let sql = AssertSqlSafe(format!(
            "select o.id from operation o where o.status in ('queued', 'running', 'undoing', 'stuck') \
             and o.lease_until <= $1 and (o.not_before <= $1 or o.cancel) \
             and (o.kind || '/' || o.version) in ({}) \
             and not exists (select 1 from operation e where e.instance_id = o.instance_id and e.seq < o.seq \
             and e.status in ('queued', 'running', 'undoing', 'stuck')) \
             order by o.seq limit 1",
            placeholders(2, known.len())
        ));
        let mut asked = query(sql).bind(now);
        for kind in known {
            asked = asked.bind(kind);
        }
        let Some(row) = asked.fetch_optional(&mut *tx).await.map_err(failed)? else {
            // Runners look often: the connection goes back to its pool.
            tx.commit().await.map_err(failed)?;
            return Ok(None);
        };
        let id: String = row.try_get(0).map_err(failed)?;
        let [fence, change] = draw(&mut tx, [FENCE, CHANGE]).await?;
        let row = query(
            "update operation set owner = $2, lease_until = $3, fence = $4, changed = $5, \
             status = case status when 'queued' then 'running' else status end, \
             started = coalesce(started, $6) where id = $1 returning id, kind, version, instance_id, \
             project_id, request_id, user_id, status, state, steps, position, attempt, error, cancel, fence",
        )
        .bind(&id)
        .bind(owner)
        .bind(now + span(lease))
        .bind(fence)
        .bind(change)
        .bind(now)
        .fetch_one(&mut *tx)
        .await
        .map_err(failed)?;
        let claimed = claimed(&row)?;
        tx.commit().await.map_err(failed)?;
        Ok(Some(claimed))
    }

    /// How long until another operation may become due by time alone: a lease that ends or a delay that is over.
    ///
    /// # Errors
    /// Internal.
    pub async fn next_due(&self, known: &[String]) -> Result<Option<Duration>> {
        let failed = |error| Error::internal("look for the next operation that becomes due", error);
        let now = self.read.now().await.map_err(failed)?;
        let sql = AssertSqlSafe(format!(
            "select min(case when o.lease_until > o.not_before then o.lease_until else o.not_before end) \
             from operation o where o.status in ('queued', 'running', 'undoing', 'stuck') \
             and (o.lease_until > $1 or o.not_before > $1) \
             and (o.kind || '/' || o.version) in ({})",
            placeholders(2, known.len())
        ));
        let mut asked = query(sql).bind(now);
        for kind in known {
            asked = asked.bind(kind);
        }
        let row = asked.fetch_one(&self.read).await.map_err(failed)?;
        let due: Option<i64> = row.try_get(0).map_err(failed)?;
        Ok(due.map(|due| Duration::from_micros(u64::try_from(due - now).unwrap_or(0))))
    }

    /// Which of the operations that this controller holds were asked to end.
    ///
    /// # Errors
    /// Internal.
    pub async fn cancelled_operations(&self, owner: &str) -> Result<Vec<OperationId>> {
        let failed = |error| Error::internal("look for cancelled operations", error);
        let rows = query(
            "select id from operation where status in ('queued', 'running', 'undoing', 'stuck') \
             and cancel and owner = $1",
        )
        .bind(owner)
        .fetch_all(&self.read)
        .await
        .map_err(failed)?;
        rows.iter().map(|row| parse_id(&row.try_get::<String, _>(0).map_err(failed)?)).collect()
    }

    /// Makes a claim last longer; whether the operation was asked to end. `None`: the claim is lost.
    ///
    /// # Errors
    /// Internal.
    pub async fn renew_lease(&self, lease: Lease, duration: Duration) -> Result<Option<bool>> {
        let failed = |error| Error::internal(format!("renew the lease of operation {}", lease.id), error);
        let mut tx = self.begin().await?;
        let now = database_now(&mut tx).await?;
        let row = query(
            "update operation set lease_until = $3 where id = $1 and fence = $2 \
             and status in ('queued', 'running', 'undoing', 'stuck') returning cancel",
        )
        .bind(lease.id.to_string())
        .bind(lease.fence)
        .bind(now + span(duration))
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
        let cancel = row.map(|row| row.try_get(0)).transpose().map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok(cancel)
    }

    /// Begins a transaction under a claim. `None`: the claim is lost, and nothing may be written.
    ///
    /// # Errors
    /// Internal.
    pub async fn begin_fenced(&self, lease: Lease) -> Result<Option<Transaction>> {
        let mut tx = self.begin().await?;
        let [change] = draw(&mut tx, [CHANGE]).await?;
        let done = query(
            "update operation set changed = $3 where id = $1 and fence = $2 \
             and status in ('queued', 'running', 'undoing', 'stuck')",
        )
        .bind(lease.id.to_string())
        .bind(lease.fence)
        .bind(change)
        .execute(&mut *tx)
        .await
        .map_err(|error| Error::internal(format!("write under the lease of operation {}", lease.id), error))?;
        Ok((done.rows_affected() == 1).then_some(tx))
    }
}

/// Writes under a claim; `conn` comes from [`Store::begin_fenced`].
pub struct Writes<'c> {
    /// The transaction.
    pub conn: &'c mut Connection,
    /// Which operation.
    pub id: OperationId,
}

impl Writes<'_> {
    /// Step `n` begins, or goes on.
    ///
    /// # Errors
    /// Internal.
    pub async fn start_step(&mut self, n: usize) -> Result<Started> {
        let now = database_now(self.conn).await?;
        let sql = "update operation_step set status = 'running', finished = null, started = coalesce(started, $3) \
                   where operation_id = $1 and n = $2 returning started";
        self.started(sql, n, now).await
    }

    /// The undo of step `n` begins, or goes on.
    ///
    /// # Errors
    /// Internal.
    pub async fn start_undo(&mut self, n: usize) -> Result<Started> {
        let now = database_now(self.conn).await?;
        let sql = "update operation_step set undo_started = coalesce(undo_started, $3) \
                   where operation_id = $1 and n = $2 returning undo_started";
        self.started(sql, n, now).await
    }

    async fn started(&mut self, sql: &'static str, n: usize, now: i64) -> Result<Started> {
        let failed = |error| Error::internal(format!("start a step of operation {}", self.id), error);
        let row = query(sql)
            .bind(self.id.to_string())
            .bind(number(n))
            .bind(now)
            .fetch_one(&mut *self.conn)
            .await
            .map_err(failed)?;
        let started: i64 = row.try_get(0).map_err(failed)?;
        let ago = Duration::from_micros(u64::try_from(now - started).unwrap_or(0));
        Ok(Started { ago, again: started != now })
    }

    /// Step `n` is done: its result, and where the operation goes on.
    ///
    /// # Errors
    /// Internal.
    pub async fn step_done(&mut self, n: usize, state: &Value) -> Result<()> {
        self.set_step(n, "done", None).await?;
        self.advance(state, n + 1).await
    }

    /// The undo of step `n` is done.
    ///
    /// # Errors
    /// Internal.
    pub async fn undo_done(&mut self, n: usize, state: &Value) -> Result<()> {
        query(
            "update operation_step set status = case status when 'done' then 'undone' else status end \
             where operation_id = $1 and n = $2",
        )
        .bind(self.id.to_string())
        .bind(number(n))
        .execute(&mut *self.conn)
        .await
        .map_err(|error| Error::internal(format!("write an undo of operation {}", self.id), error))?;
        self.advance(state, n).await
    }

    async fn advance(&mut self, state: &Value, position: usize) -> Result<()> {
        query("update operation set state = $2, position = $3, attempt = 1 where id = $1")
            .bind(self.id.to_string())
            .bind(state.to_string())
            .bind(number(position))
            .execute(&mut *self.conn)
            .await
            .map_err(|error| Error::internal(format!("advance operation {}", self.id), error))?;
        Ok(())
    }

    /// Step `n`, or its undo, is tried again because of `error`, as this attempt.
    ///
    /// # Errors
    /// Internal.
    pub async fn retry(&mut self, n: usize, error: &str, attempt: u32) -> Result<()> {
        let failed = |error| Error::internal(format!("write a retry of operation {}", self.id), error);
        query("update operation_step set error = $3 where operation_id = $1 and n = $2")
            .bind(self.id.to_string())
            .bind(number(n))
            .bind(error)
            .execute(&mut *self.conn)
            .await
            .map_err(failed)?;
        query("update operation set attempt = $2 where id = $1")
            .bind(self.id.to_string())
            .bind(i64::from(attempt))
            .execute(&mut *self.conn)
            .await
            .map_err(failed)?;
        Ok(())
    }

    /// Step `n` has failed, and the undos begin, under a fence that is greater than that of whatever still runs.
    ///
    /// # Errors
    /// Internal.
    pub async fn step_failed(&mut self, n: usize, step_error: &str, error: &str) -> Result<Lease> {
        self.set_step(n, "failed", Some(step_error)).await?;
        let [fence] = draw(self.conn, [FENCE]).await?;
        query(
            "update operation set status = 'undoing', position = $2, attempt = 1, error = $3, fence = $4 where id = $1",
        )
        .bind(self.id.to_string())
        .bind(number(n + 1))
        .bind(error)
        .bind(fence)
        .execute(&mut *self.conn)
        .await
        .map_err(|error| Error::internal(format!("begin the undos of operation {}", self.id), error))?;
        Ok(Lease { id: self.id, fence })
    }

    async fn set_step(&mut self, n: usize, status: &'static str, error: Option<&str>) -> Result<()> {
        query("update operation_step set status = $3, error = $4, finished = $5 where operation_id = $1 and n = $2")
            .bind(self.id.to_string())
            .bind(number(n))
            .bind(status)
            .bind(error)
            .bind(database_now(self.conn).await?)
            .execute(&mut *self.conn)
            .await
            .map_err(|error| Error::internal(format!("write a step of operation {}", self.id), error))?;
        Ok(())
    }

    /// What step `n` says of its progress.
    ///
    /// # Errors
    /// Internal.
    pub async fn progress(&mut self, n: usize, progress: &Value) -> Result<()> {
        query("update operation_step set progress = $3 where operation_id = $1 and n = $2")
            .bind(self.id.to_string())
            .bind(number(n))
            .bind(progress.to_string())
            .execute(&mut *self.conn)
            .await
            .map_err(|error| Error::internal(format!("write the progress of operation {}", self.id), error))?;
        Ok(())
    }

    /// Lets go of it for this long; `stuck`: an undo does not succeed and a person should look.
    ///
    /// # Errors
    /// Internal.
    pub async fn park(&mut self, delay: Duration, stuck: bool) -> Result<()> {
        self.conn.announce(News::Work);
        let until = database_now(self.conn).await? + span(delay);
        query(
            "update operation set lease_until = 0, owner = null, not_before = $2, \
             status = case when $3 then 'stuck' else status end where id = $1",
        )
        .bind(self.id.to_string())
        .bind(until)
        .bind(stuck)
        .execute(&mut *self.conn)
        .await
        .map_err(|error| Error::internal(format!("let go of operation {}", self.id), error))?;
        Ok(())
    }

    /// It has ended. Its state goes, and with it the secrets in it.
    ///
    /// # Errors
    /// Internal.
    pub async fn end(&mut self, status: Status) -> Result<()> {
        // The next of its instance may begin.
        self.conn.announce(News::Work);
        let failed = |error| Error::internal(format!("end operation {}", self.id), error);
        query(
            "update operation set status = $2, state = '{}', finished = $3, owner = null, lease_until = 0 \
             where id = $1",
        )
        .bind(self.id.to_string())
        .bind(status.tag())
        .bind(database_now(self.conn).await?)
        .execute(&mut *self.conn)
        .await
        .map_err(failed)?;
        // A step that was under way when the operation was cancelled.
        query(
            "update operation_step set status = 'failed', error = 'cancelled', finished = $2 \
             where operation_id = $1 and status = 'running'",
        )
        .bind(self.id.to_string())
        .bind(database_now(self.conn).await?)
        .execute(&mut *self.conn)
        .await
        .map_err(failed)?;
        query("update operation_target set active = false where operation_id = $1")
            .bind(self.id.to_string())
            .execute(&mut *self.conn)
            .await
            .map_err(failed)?;
        Ok(())
    }
}

/// `$first, $first+1, …`.
fn placeholders(first: usize, count: usize) -> String {
    (first..first + count).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ")
}

/// An index of a step. There are a handful.
fn number(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn parse_id(text: &str) -> Result<OperationId> {
    text.parse().map_err(|error| Error::internal(format!("read the operation id {text:?}"), error))
}

fn claimed(row: &Row) -> Result<Claimed> {
    let failed = |error| Error::internal("read an operation", error);
    let id: OperationId = parse_id(&row.try_get::<String, _>("id").map_err(failed)?)?;
    let damaged = |what: &str| Error::Internal { attempt: format!("read the {what} of operation {id}"), source: None };
    let text = |column: &'static str| row.try_get::<String, _>(column).map_err(failed);
    let number = |column: &'static str| row.try_get::<i64, _>(column).map_err(failed);
    Ok(Claimed {
        lease: Lease { id, fence: number("fence")? },
        kind: text("kind")?,
        version: u16::try_from(number("version")?).map_err(|_| damaged("version"))?,
        instance: text("instance_id")?.parse().map_err(|_| damaged("instance"))?,
        project: ProjectId(text("project_id")?),
        request_id: text("request_id")?,
        user_id: text("user_id")?,
        status: Status::from_tag(&text("status")?).ok_or_else(|| damaged("status"))?,
        state: serde_json::from_str(&text("state")?).map_err(|_| damaged("state"))?,
        steps: serde_json::from_str(&text("steps")?).map_err(|_| damaged("steps"))?,
        position: usize::try_from(number("position")?).map_err(|_| damaged("position"))?,
        attempt: u32::try_from(number("attempt")?).map_err(|_| damaged("attempt"))?,
        error: row.try_get("error").map_err(failed)?,
        cancel: row.try_get("cancel").map_err(failed)?,
    })
}
