//! Leases: how controllers claim operations.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use sqlx::AssertSqlSafe;

use super::{CHANGE, FENCE, Status, draw};
use crate::error::{Error, Result};
use crate::ids::{InstanceId, OperationId, ProjectId};
use crate::store::sql::{Connection, Row, Transaction, query};
use crate::store::{Store, database_now, span};

/// The lease of an operation. Each write under it checks that it is still held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: OperationId,
    /// Fence that was drawn at the claim.
    pub fence: i64,
}

/// A claimed operation, as its runner needs it.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub lease: Lease,
    pub kind: String,
    /// Version of its kind's steps and state.
    pub version: u16,
    pub project: ProjectId,
    /// Id of the API request.
    pub request_id: String,
    /// User of the API request.
    pub user_id: String,
    /// Never queued.
    pub status: Status,
    /// State shared by its targets, after the last completed stage.
    pub state: Value,
    /// State of each target; null before the first step.
    pub targets: BTreeMap<InstanceId, Value>,
    /// Name of the step of each stage.
    pub stages: Vec<String>,
    /// Index of the next stage; while undoing, index of the next undo plus one.
    pub position: usize,
    pub error: Option<String>,
    /// Whether it is to be cancelled.
    pub cancel: bool,
}

/// An unfinished step, or its undo, on one target.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    pub target: InstanceId,
    /// Number of the next attempt.
    pub attempt: u32,
    pub started: Started,
}

/// When a step, or its undo, began first.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// Time since then; zero if it begins now.
    pub ago: Duration,
    /// Whether it has begun before.
    pub again: bool,
}

/// Result of the renewal of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease is held.
    Held,
    /// The lease is held, and the operation is to be cancelled.
    Cancelled,
    /// The lease is lost.
    Lost,
}

/// Kind and version of an operation as one text, used to select the operations that a runner can execute.
pub fn known(kind: &str, version: u16) -> String {
    format!("{kind}/{version}")
}

impl Store {
    /// Releases the leases that this controller held before its restart.
    pub async fn release_own_leases(&self, owner: &str) -> Result<()> {
        query("update operation set lease_until = 0 where owner = $1 and active")
            .bind(owner)
            .execute(&self.write)
            .await
            .map_err(|error| Error::internal("give up the leases of this controller's earlier life", error))?;
        Ok(())
    }

    /// Claims the oldest operation that is of a kind in `known`, has no live lease, is due, and has no earlier active
    /// operation on any of its targets that its lane excludes.
    pub async fn claim_operation(&self, owner: &str, lease: Duration, known: &[String]) -> Result<Option<Claimed>> {
        let failed = |error| Error::internal("claim an operation", error);
        let mut tx = self.begin().await?;
        let now = database_now(&mut tx).await?;
        let sql = AssertSqlSafe(format!(
            "select o.id from operation o where o.active \
             and o.lease_until <= $1 and (o.not_before <= $1 or o.cancel) \
             and (o.kind || '/' || o.version) in ({}) \
             and not exists (select 1 from operation_target t join operation_target earlier \
             on earlier.resource = t.resource and earlier.active and earlier.seq < t.seq \
             where t.operation_id = o.id and (t.lane, earlier.lane) not in \
             (values ('accounts', 'backup'), ('backup', 'accounts'))) \
             order by o.seq limit 1",
            placeholders(2, known.len())
        ));
        let mut asked = query(sql).bind(now);
        for kind in known {
            asked = asked.bind(kind);
        }
        let Some(row) = asked.fetch_optional(&mut *tx).await.map_err(failed)? else {
            // Commit although nothing was written: only then does the connection go back to its pool.
            tx.commit().await.map_err(failed)?;
            return Ok(None);
        };
        let id: String = row.try_get(0).map_err(failed)?;
        let [fence, change] = draw(&mut tx, [FENCE, CHANGE]).await?;
        let row = query(
            "update operation set owner = $2, lease_until = $3, fence = $4, changed = $5, \
             status = case status when 'queued' then 'running' else status end, \
             started = coalesce(started, $6) where id = $1 returning id, kind, version, \
             project_id, request_id, user_id, status, state, position, error, cancel, fence",
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
        let mut claimed = claimed(&row)?;
        read_targets(&mut tx, &mut claimed).await?;
        tx.commit().await.map_err(failed)?;
        Ok(Some(claimed))
    }

    /// Time until the next lease or delay ends, when another operation may become due.
    pub async fn next_due(&self, known: &[String]) -> Result<Option<Duration>> {
        let failed = |error| Error::internal("look for the next operation that becomes due", error);
        let now = self.read.now().await.map_err(failed)?;
        let sql = AssertSqlSafe(format!(
            "select min(case when o.lease_until > o.not_before then o.lease_until else o.not_before end) \
             from operation o where o.active and (o.lease_until > $1 or o.not_before > $1) \
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

    /// Those operations of this controller that are to be cancelled.
    pub async fn cancelled_operations(&self, owner: &str) -> Result<Vec<OperationId>> {
        let failed = |error| Error::internal("look for cancelled operations", error);
        let rows = query("select id from operation where active and cancel and owner = $1")
            .bind(owner)
            .fetch_all(&self.read)
            .await
            .map_err(failed)?;
        rows.iter().map(|row| parse_id(&row.try_get::<String, _>(0).map_err(failed)?)).collect()
    }

    /// Extends a lease.
    pub async fn renew_lease(&self, lease: Lease, duration: Duration) -> Result<Renewal> {
        let failed = |error| Error::internal(format!("renew the lease of operation {}", lease.id), error);
        let mut tx = self.begin().await?;
        let now = database_now(&mut tx).await?;
        let sql = "update operation set lease_until = $3 where id = $1 and fence = $2 and active returning cancel";
        let row = query(sql)
            .bind(lease.id.to_string())
            .bind(lease.fence)
            .bind(now + span(duration))
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed)?;
        let cancel: Option<bool> = row.map(|row| row.try_get(0)).transpose().map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok(match cancel {
            Some(false) => Renewal::Held,
            Some(true) => Renewal::Cancelled,
            None => Renewal::Lost,
        })
    }

    /// Begins a transaction under a lease. `None` if the lease is lost; then nothing may be written.
    pub async fn begin_fenced(&self, lease: Lease) -> Result<Option<Transaction>> {
        let mut tx = self.begin().await?;
        let [change] = draw(&mut tx, [CHANGE]).await?;
        let done = query("update operation set changed = $3 where id = $1 and fence = $2 and active")
            .bind(lease.id.to_string())
            .bind(lease.fence)
            .bind(change)
            .execute(&mut *tx)
            .await
            .map_err(|error| Error::internal(format!("write under the lease of operation {}", lease.id), error))?;
        Ok((done.rows_affected() == 1).then_some(tx))
    }
}

/// Reads the stages and targets of a claimed operation.
async fn read_targets(conn: &mut Connection, claimed: &mut Claimed) -> Result<()> {
    let id = claimed.lease.id;
    let failed = |error| Error::internal(format!("read the targets of operation {id}"), error);
    let sql = "select distinct n, name from operation_step where operation_id = $1 order by n";
    for row in query(sql).bind(id.to_string()).fetch_all(&mut *conn).await.map_err(failed)? {
        claimed.stages.push(row.try_get(1).map_err(failed)?);
    }
    let sql = "select resource, state from operation_target where operation_id = $1";
    for row in query(sql).bind(id.to_string()).fetch_all(&mut *conn).await.map_err(failed)? {
        let target = parse_target(&row.try_get::<String, _>(0).map_err(failed)?)?;
        let state: String = row.try_get(1).map_err(failed)?;
        let damaged = |error| Error::internal(format!("read what operation {id} knows of {target}"), error);
        claimed.targets.insert(target, serde_json::from_str(&state).map_err(damaged)?);
    }
    Ok(())
}

/// `$first, $first+1, …`.
fn placeholders(first: usize, count: usize) -> String {
    (first..first + count).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ")
}

fn parse_id(text: &str) -> Result<OperationId> {
    text.parse().map_err(|error| Error::internal(format!("read the operation id {text:?}"), error))
}

pub(super) fn parse_target(text: &str) -> Result<InstanceId> {
    text.parse().map_err(|error| Error::internal(format!("read the target {text:?}"), error))
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
        project: ProjectId(text("project_id")?),
        request_id: text("request_id")?,
        user_id: text("user_id")?,
        status: Status::from_tag(&text("status")?).ok_or_else(|| damaged("status"))?,
        state: serde_json::from_str(&text("state")?).map_err(|_| damaged("state"))?,
        targets: BTreeMap::new(),
        stages: Vec::new(),
        position: usize::try_from(number("position")?).map_err(|_| damaged("position"))?,
        error: row.try_get("error").map_err(failed)?,
        cancel: row.try_get("cancel").map_err(failed)?,
    })
}
