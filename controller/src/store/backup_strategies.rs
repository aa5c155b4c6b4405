//! Rows of backup strategies: a label for each project, or one of its instances.

use super::Store;
use super::instances::rows::{column, parsed};
use crate::error::{Error, Result};
use crate::ids::{InstanceId, ProjectId};
use crate::model::backups::BackupStrategy;
use crate::store::sql::{Connection, Row, query};

impl Store {
    /// Writes a strategy, in the place of the one that was there.
    pub async fn put_backup_strategy(&self, conn: &mut Connection, strategy: &BackupStrategy) -> Result<()> {
        query(
            "insert into backup_strategy (project_id, instance_id, swift_container) values ($1, $2, $3) \
             on conflict (project_id, instance_id) do update set swift_container = excluded.swift_container",
        )
        .bind(&strategy.project.0)
        .bind(key(strategy.instance))
        .bind(&strategy.swift_container)
        .execute(conn)
        .await
        .map_err(|error| Error::internal("write a backup strategy", error))?;
        Ok(())
    }

    /// A project's strategies, or that of one instance, by instance.
    pub async fn list_backup_strategies(
        &self,
        project: &ProjectId,
        instance: Option<&str>,
    ) -> Result<Vec<BackupStrategy>> {
        let rows = query(
            "select project_id, instance_id, swift_container from backup_strategy \
             where project_id = $1 and ($2 is null or instance_id = $2) order by instance_id",
        )
        .bind(&project.0)
        .bind(instance)
        .fetch_all(&self.read)
        .await
        .map_err(|error| Error::internal("list backup strategies", error))?;
        let read = |row: &Row| {
            let all: String = column(row, "instance_id")?;
            let instance = (!all.is_empty()).then(|| parsed(row, "instance_id").map(InstanceId)).transpose()?;
            let project = ProjectId(column(row, "project_id")?);
            Ok(BackupStrategy { project, instance, swift_container: column(row, "swift_container")? })
        };
        rows.iter().map(read).collect()
    }

    /// Removes a strategy, by its instance; empty: the one of all others. What is not there counts as removed.
    pub async fn delete_backup_strategy(&self, project: &ProjectId, instance: &str) -> Result<()> {
        query("delete from backup_strategy where project_id = $1 and instance_id = $2")
            .bind(&project.0)
            .bind(instance)
            .execute(&self.write)
            .await
            .map_err(|error| Error::internal("delete a backup strategy", error))?;
        Ok(())
    }
}

/// By which a strategy is stored.
fn key(instance: Option<InstanceId>) -> String {
    instance.map(|id| id.to_string()).unwrap_or_default()
}
