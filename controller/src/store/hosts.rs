//! Queries of the reconcilers about hosts.

use sqlx::AssertSqlSafe;

use super::Store;
use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::model::ArtifactKind;
use crate::model::operations::Lane;
use crate::state::{HostState, Task};
use crate::store::sql::{Connection, Row, query};

/// What the reconciler of hosts needs of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRow {
    pub instance: InstanceId,
    /// State of the host as the driver last reported it.
    pub host: HostState,
    /// What the controller is doing with the instance.
    pub task: Task,
    pub deleted: bool,
    /// Whether an operation is active on it that may change the host: a change of accounts and a backup only wait for the agent.
    pub busy: bool,
}

impl Store {
    /// All instances that are not deleted, and the deleted ones among `others`.
    pub async fn list_hosts(&self, others: &[InstanceId]) -> Result<Vec<HostRow>> {
        let others: Vec<String> = others.iter().map(|id| format!("'{}'", id.0)).collect();
        let sql = AssertSqlSafe(format!(
            "select i.id, i.host, i.task, i.deleted is not null as deleted, exists (select 1 from operation_target t \
             where t.resource = i.id and t.active and t.lane = '{}') as busy \
             from instance i where i.deleted is null or i.id in ({})",
            Lane::Lifecycle.tag(),
            if others.is_empty() { "null".to_owned() } else { others.join(", ") }
        ));
        let rows = query(sql).fetch_all(&self.read).await.map_err(|error| Error::internal("list hosts", error))?;
        rows.iter().map(host_row).collect()
    }

    /// Instances whose hosts a driver of this kind cannot have made: they are of versions that it does not run.
    pub async fn list_unfit(&self, artifacts: ArtifactKind) -> Result<Vec<InstanceId>> {
        let failed = |error| Error::internal("list the instances of another driver", error);
        let rows = query(match artifacts {
            ArtifactKind::Local => {
                "select i.id from instance i join datastore_version v on v.id = i.version_id \
                 where i.deleted is null and v.image is not null order by i.id"
            }
            ArtifactKind::Image => {
                "select i.id from instance i join datastore_version v on v.id = i.version_id \
                 where i.deleted is null and v.image is null order by i.id"
            }
        });
        let rows = rows.fetch_all(&self.read).await.map_err(failed)?;
        let id = |row: &Row| {
            let id: String = row.try_get("id").map_err(failed)?;
            id.parse().map_err(|error| Error::internal("read the id of an instance of another driver", error))
        };
        rows.iter().map(id).collect()
    }

    /// Instances that are in error because a restart of their engine or a reboot failed.
    pub async fn list_failed_restarts(&self) -> Result<Vec<InstanceId>> {
        let failed = |error| Error::internal("list failed restarts", error);
        let rows = query(
            "select i.id from instance i where i.deleted is null and i.task = 'error' and (select o.kind \
             from operation_target t join operation o on o.id = t.operation_id \
             where t.resource = i.id and t.lane = 'lifecycle' order by t.seq desc limit 1) \
             in ('restart_instance', 'reboot_instance')",
        );
        let rows = rows.fetch_all(&self.read).await.map_err(failed)?;
        let id = |row: &Row| {
            let id: String = row.try_get("id").map_err(failed)?;
            id.parse().map_err(|error| Error::internal("read the id of a failed restart", error))
        };
        rows.iter().map(id).collect()
    }

    /// Instances that are no tenant's and on which no operation is active: nobody would delete them.
    pub async fn list_orphans(&self) -> Result<Vec<InstanceId>> {
        let failed = |error| Error::internal("list instances that nobody works with", error);
        let rows = query(
            "select i.id from instance i where i.purpose is not null and i.deleted is null \
             and not exists (select 1 from operation_target t where t.resource = i.id and t.active)",
        );
        let rows = rows.fetch_all(&self.read).await.map_err(failed)?;
        let id = |row: &Row| {
            let id: String = row.try_get("id").map_err(failed)?;
            id.parse().map_err(|error| Error::internal("read the id of an instance that nobody works with", error))
        };
        rows.iter().map(id).collect()
    }

    /// Whether an operation is active on an instance, in the caller's transaction.
    pub async fn is_busy(&self, conn: &mut Connection, instance: InstanceId) -> Result<bool> {
        query("select exists (select 1 from operation_target where resource = $1 and active)")
            .bind(instance.to_string())
            .fetch_one(conn)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(|error| Error::internal(format!("look for operations on instance {instance}"), error))
    }

    /// Whether an operation is active on an instance that decides about its host: a change of accounts and a backup wait for
    /// the agent, and for whoever starts it.
    pub async fn is_host_busy(&self, conn: &mut Connection, instance: InstanceId) -> Result<bool> {
        query("select exists (select 1 from operation_target where resource = $1 and active and lane = $2)")
            .bind(instance.to_string())
            .bind(Lane::Lifecycle.tag())
            .fetch_one(conn)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(|error| Error::internal(format!("look for operations on the host of {instance}"), error))
    }
}

fn host_row(row: &Row) -> Result<HostRow> {
    let read = |error| Error::internal("read a host", error);
    let id: String = row.try_get("id").map_err(read)?;
    let damaged =
        |tag: &str| Error::Internal { attempt: format!("read the state {tag:?} of instance {id}"), source: None };
    let host: String = row.try_get("host").map_err(read)?;
    let task: String = row.try_get("task").map_err(read)?;
    Ok(HostRow {
        instance: id.parse().map_err(|error| Error::internal("read a host's instance", error))?,
        host: HostState::from_tag(&host).ok_or_else(|| damaged(&host))?,
        task: Task::from_tag(&task).ok_or_else(|| damaged(&task))?,
        deleted: row.try_get("deleted").map_err(read)?,
        busy: row.try_get("busy").map_err(read)?,
    })
}
