//! Rows of operations: the queue, its leases, and what the API shows of them.
//!
//! A controller holds an operation by a lease on the database's clock. Each claim draws a fence from one counter of the
//! store, and every later write says `where fence = …`: whoever lost its lease writes nothing any more.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use time::OffsetDateTime;

use super::{Store, micros};
use crate::error::{Error, Result};
use crate::ids::{InstanceId, OperationId};
use crate::operations::{Lane, NewOperation};

/// The counter from which fences are drawn.
const FENCE: &str = "fence";
/// The counter of the order of asking.
const SEQUENCE: &str = "operation";
/// The counter of changes.
const CHANGE: &str = "change";

impl Store {
    /// Writes an operation into the caller's transaction. Afterwards the caller commits and nudges the runner.
    ///
    /// # Errors
    /// 422 when it is of the life-cycle lane and another such operation is active on the instance.
    pub async fn enqueue(&self, conn: &mut SqliteConnection, new: NewOperation) -> Result<OperationId> {
        let instance = new.origin.instance.to_string();
        if new.lane == Lane::Lifecycle
            && let Some(kind) = active_lifecycle(conn, &instance).await?
        {
            return Err(Error::Unprocessable(format!(
                "Instance {instance} is not currently available for an action to be performed \
                 (operation {kind} is in progress)."
            )));
        }
        let id = OperationId::random();
        let failed = |error| Error::internal(format!("write operation {} of instance {instance}", new.kind), error);
        let json = |error| Error::internal(format!("write operation {} of instance {instance}", new.kind), error);
        sqlx::query(
            "insert into operation (id, seq, kind, version, project_id, instance_id, lane, request_id, user_id, \
             status, state, steps, position, attempt, lease_until, fence, not_before, cancel, created, changed) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'queued', $10, $11, 0, 1, 0, 0, 0, false, $12, $13)",
        )
        .bind(id.to_string())
        .bind(draw(conn, SEQUENCE).await?)
        .bind(new.kind)
        .bind(i64::from(new.version))
        .bind(&new.origin.project.0)
        .bind(&instance)
        .bind(new.lane.tag())
        .bind(&new.origin.request_id)
        .bind(&new.origin.user_id)
        .bind(new.state.to_string())
        .bind(serde_json::to_string(&new.steps).map_err(json)?)
        .bind(micros(OffsetDateTime::now_utc()))
        .bind(draw(conn, CHANGE).await?)
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
        for (n, name) in (0_i64..).zip(&new.steps) {
            sqlx::query("insert into operation_step (operation_id, n, name, status) values ($1, $2, $3, 'pending')")
                .bind(id.to_string())
                .bind(n)
                .bind(name)
                .execute(&mut *conn)
                .await
                .map_err(failed)?;
        }
        sqlx::query("insert into operation_target (operation_id, resource, lane, active) values ($1, $2, $3, true)")
            .bind(id.to_string())
            .bind(&instance)
            .bind(new.lane.tag())
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
        Ok(id)
    }

    /// Ends the operations of these lanes on an instance: those that wait at once, the one that runs at its next safe
    /// point. A new operation may be enqueued in the same transaction; it starts when the old one has let go.
    ///
    /// # Errors
    /// Internal.
    pub async fn cancel_active(&self, conn: &mut SqliteConnection, instance: InstanceId, lanes: &[Lane]) -> Result<()> {
        let failed = |error| Error::internal(format!("cancel the operations of instance {instance}"), error);
        for lane in lanes {
            let change = draw(conn, CHANGE).await?;
            sqlx::query(
                "update operation set \
                 cancel = true, changed = $3, \
                 finished = case status when 'queued' then $4 else finished end, \
                 state = case status when 'queued' then '{}' else state end, \
                 status = case status when 'queued' then 'cancelled' else status end \
                 where instance_id = $1 and lane = $2 and status in ('queued', 'running', 'undoing', 'stuck')",
            )
            .bind(instance.to_string())
            .bind(lane.tag())
            .bind(change)
            .bind(micros(OffsetDateTime::now_utc()))
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
            sqlx::query("update operation_target set active = false where resource = $1 and lane = $2 and active")
                .bind(instance.to_string())
                .bind(lane.tag())
                .execute(&mut *conn)
                .await
                .map_err(failed)?;
        }
        Ok(())
    }

    /// A number greater than every fence before it.
    ///
    /// # Errors
    /// Internal.
    pub async fn draw_fence(&self, conn: &mut SqliteConnection) -> Result<i64> {
        draw(conn, FENCE).await
    }
}

/// The kind of the life-cycle operation that holds an instance.
async fn active_lifecycle(conn: &mut SqliteConnection, instance: &str) -> Result<Option<String>> {
    sqlx::query(
        "select o.kind from operation_target t join operation o on o.id = t.operation_id \
         where t.resource = $1 and t.lane = 'lifecycle' and t.active",
    )
    .bind(instance)
    .fetch_optional(conn)
    .await
    .and_then(|row| row.map(|row: SqliteRow| row.try_get(0)).transpose())
    .map_err(|error| Error::internal(format!("look for operations on instance {instance}"), error))
}

/// The next number of a counter.
async fn draw(conn: &mut SqliteConnection, counter: &'static str) -> Result<i64> {
    sqlx::query(
        "insert into counter (name, value) values ($1, 1) \
         on conflict (name) do update set value = counter.value + 1 returning value",
    )
    .bind(counter)
    .fetch_one(conn)
    .await
    .and_then(|row| row.try_get(0))
    .map_err(|error| Error::internal(format!("draw the next {counter} number"), error))
}
