//! Writes of the runner under a lease: progress of the stages on each target, and the end of the operation.

use std::time::Duration;

use serde_json::Value;

use super::lease::{Begun, Lease, Started, parse_target};
use super::{FENCE, Status, draw};
use crate::error::{Error, Result};
use crate::ids::{InstanceId, OperationId};
use crate::store::sql::{Connection, News, query};
use crate::store::{database_now, span};

/// Writes under a lease. `conn` comes from [`Store::begin_fenced`].
pub struct Writes<'c> {
    pub conn: &'c mut Connection,
    pub id: OperationId,
}

impl Writes<'_> {
    /// Begins or continues the step of stage `n` on each target on which it is not done.
    pub async fn start_steps(&mut self, n: usize) -> Result<Vec<Begun>> {
        let sql = "update operation_step set status = 'running', finished = null, started = coalesce(started, $3) \
                   where operation_id = $1 and n = $2 and status <> 'done' returning target, attempt, started";
        self.begun(sql, n).await
    }

    /// Begins or continues the undo of stage `n` on each target on which it is not done.
    pub async fn start_undos(&mut self, n: usize) -> Result<Vec<Begun>> {
        let sql = "update operation_step set undo_started = coalesce(undo_started, $3) \
                   where operation_id = $1 and n = $2 and undo_finished is null returning target, attempt, undo_started";
        self.begun(sql, n).await
    }

    async fn begun(&mut self, sql: &'static str, n: usize) -> Result<Vec<Begun>> {
        let failed = |error| Error::internal(format!("begin a stage of operation {}", self.id), error);
        let now = database_now(self.conn).await?;
        let rows = query(sql).bind(self.id.to_string()).bind(number(n)).bind(now).fetch_all(&mut *self.conn).await;
        let mut all = Vec::new();
        for row in rows.map_err(failed)? {
            let started: i64 = row.try_get(2).map_err(failed)?;
            let ago = Duration::from_micros(u64::try_from(now - started).unwrap_or(0));
            all.push(Begun {
                target: parse_target(&row.try_get::<String, _>(0).map_err(failed)?)?,
                attempt: u32::try_from(row.try_get::<i64, _>(1).map_err(failed)?).unwrap_or(u32::MAX),
                started: Started { ago, again: started != now },
            });
        }
        // `returning` has no order.
        all.sort_by_key(|begun| begun.target);
        Ok(all)
    }

    /// Records that the step of stage `n` is done on a target, and stores the target's state.
    pub async fn step_done(&mut self, n: usize, target: InstanceId, state: &Value) -> Result<()> {
        self.set_step(n, target, "done", None).await?;
        self.set_target(target, state).await
    }

    /// Records that the undo of stage `n` is done on a target, and stores the target's state.
    pub async fn undo_done(&mut self, n: usize, target: InstanceId, state: &Value) -> Result<()> {
        query(
            "update operation_step set undo_finished = $4, attempt = 1, \
             status = case status when 'done' then 'undone' else status end \
             where operation_id = $1 and n = $2 and target = $3",
        )
        .bind(self.id.to_string())
        .bind(number(n))
        .bind(target.to_string())
        .bind(database_now(self.conn).await?)
        .execute(&mut *self.conn)
        .await
        .map_err(|error| Error::internal(format!("write an undo of operation {}", self.id), error))?;
        self.set_target(target, state).await
    }

    async fn set_target(&mut self, target: InstanceId, state: &Value) -> Result<()> {
        query("update operation_target set state = $3 where operation_id = $1 and resource = $2")
            .bind(self.id.to_string())
            .bind(target.to_string())
            .bind(state.to_string())
            .execute(&mut *self.conn)
            .await
            .map_err(|error| Error::internal(format!("write a target of operation {}", self.id), error))?;
        Ok(())
    }

    /// Records that a stage is done, or undone, on all targets: stores the next position and the shared state.
    pub async fn advance(&mut self, position: usize, state: &Value) -> Result<()> {
        query("update operation set state = $2, position = $3 where id = $1")
            .bind(self.id.to_string())
            .bind(state.to_string())
            .bind(number(position))
            .execute(&mut *self.conn)
            .await
            .map_err(|error| Error::internal(format!("advance operation {}", self.id), error))?;
        Ok(())
    }

    /// Records that the step of stage `n`, or its undo, is retried on a target because of `error`.
    pub async fn retry(&mut self, n: usize, target: InstanceId, error: &str, attempt: u32) -> Result<()> {
        query("update operation_step set error = $4, attempt = $5 where operation_id = $1 and n = $2 and target = $3")
            .bind(self.id.to_string())
            .bind(number(n))
            .bind(target.to_string())
            .bind(error)
            .bind(i64::from(attempt))
            .execute(&mut *self.conn)
            .await
            .map_err(|error| Error::internal(format!("write a retry of operation {}", self.id), error))?;
        Ok(())
    }

    /// Records that the step of stage `n` has failed on a target, and begins the undos. They get a new fence, greater
    /// than that of calls that are still in progress.
    pub async fn step_failed(&mut self, n: usize, target: InstanceId, step_error: &str, error: &str) -> Result<Lease> {
        let id = self.id;
        let failed = |error| Error::internal(format!("begin the undos of operation {id}"), error);
        self.set_step(n, target, "failed", Some(step_error)).await?;
        // Steps that are running on other targets have failed, too. Attempts are counted from 1 again, for the undos.
        query(
            "update operation_step set attempt = 1, \
             status = case status when 'running' then 'failed' else status end, \
             error = case status when 'running' then $2 else error end where operation_id = $1",
        )
        .bind(self.id.to_string())
        .bind(format!("given up, since it failed on {target}"))
        .execute(&mut *self.conn)
        .await
        .map_err(failed)?;
        let [fence] = draw(self.conn, [FENCE]).await?;
        query("update operation set status = 'undoing', position = $2, error = $3, fence = $4 where id = $1")
            .bind(self.id.to_string())
            .bind(number(n + 1))
            .bind(error)
            .bind(fence)
            .execute(&mut *self.conn)
            .await
            .map_err(failed)?;
        Ok(Lease { id: self.id, fence })
    }

    async fn set_step(
        &mut self,
        n: usize,
        target: InstanceId,
        status: &'static str,
        error: Option<&str>,
    ) -> Result<()> {
        query(
            "update operation_step set status = $4, error = $5, finished = $6 \
             where operation_id = $1 and n = $2 and target = $3",
        )
        .bind(self.id.to_string())
        .bind(number(n))
        .bind(target.to_string())
        .bind(status)
        .bind(error)
        .bind(database_now(self.conn).await?)
        .execute(&mut *self.conn)
        .await
        .map_err(|error| Error::internal(format!("write a step of operation {}", self.id), error))?;
        Ok(())
    }

    /// Stores the progress of the step of stage `n` on a target.
    pub async fn progress(&mut self, n: usize, target: InstanceId, progress: &Value) -> Result<()> {
        query("update operation_step set progress = $4 where operation_id = $1 and n = $2 and target = $3")
            .bind(self.id.to_string())
            .bind(number(n))
            .bind(target.to_string())
            .bind(progress.to_string())
            .execute(&mut *self.conn)
            .await
            .map_err(|error| Error::internal(format!("write the progress of operation {}", self.id), error))?;
        Ok(())
    }

    /// Releases the operation for this long. `stuck` says that an undo keeps failing and an operator should look at it.
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

    /// Ends the operation, and deletes its state, which may contain secrets.
    pub async fn end(&mut self, status: Status) -> Result<()> {
        // The next operation on its targets may begin.
        self.conn.announce(News::Work);
        let failed = |error| Error::internal(format!("end operation {}", self.id), error);
        query(
            "update operation set status = $2, active = false, state = '{}', finished = $3, owner = null, \
             lease_until = 0 where id = $1",
        )
        .bind(self.id.to_string())
        .bind(status.tag())
        .bind(database_now(self.conn).await?)
        .execute(&mut *self.conn)
        .await
        .map_err(failed)?;
        // Steps that were running when the operation was cancelled.
        query(
            "update operation_step set status = 'failed', error = 'cancelled', finished = $2 \
             where operation_id = $1 and status = 'running'",
        )
        .bind(self.id.to_string())
        .bind(database_now(self.conn).await?)
        .execute(&mut *self.conn)
        .await
        .map_err(failed)?;
        query("update operation_target set active = false, exclusive = false, state = 'null' where operation_id = $1")
            .bind(self.id.to_string())
            .execute(&mut *self.conn)
            .await
            .map_err(failed)?;
        Ok(())
    }
}

/// Converts the index of a step.
fn number(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
