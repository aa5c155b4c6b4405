//! Queries about the operations of one instance.

use super::Store;
use crate::error::{Error, Result};
use crate::ids::{InstanceId, OperationId};
use crate::store::sql::query;

impl Store {
    /// The newest active operation but a backup, beside which others end. All older ones end before it.
    pub async fn last_active(&self, instance: InstanceId) -> Result<Option<OperationId>> {
        self.one_active(
            "select operation_id from operation_target where resource = $1 and active and lane <> 'backup' order by seq desc limit 1",
            instance,
        )
        .await
    }

    /// The active life-cycle operation.
    pub async fn active_lifecycle(&self, instance: InstanceId) -> Result<Option<OperationId>> {
        self.one_active(
            "select operation_id from operation_target where resource = $1 and lane = 'lifecycle' and exclusive",
            instance,
        )
        .await
    }

    async fn one_active(&self, sql: &'static str, instance: InstanceId) -> Result<Option<OperationId>> {
        let failed = |error| Error::internal(format!("look for operations on instance {instance}"), error);
        let row = query(sql).bind(instance.to_string()).fetch_optional(&self.read).await.map_err(failed)?;
        let Some(row) = row else { return Ok(None) };
        let id: String = row.try_get(0).map_err(failed)?;
        id.parse().map(Some).map_err(|error| Error::internal(format!("read the operation id {id:?}"), error))
    }

    /// Result of an operation: `None` while it is active, `Some(Err)` with the reason if it failed or was cancelled.
    pub async fn operation_end(&self, id: OperationId) -> Result<Option<std::result::Result<(), String>>> {
        let failed = |error| Error::internal(format!("read operation {id}"), error);
        let row = query("select status, error from operation where id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await
            .map_err(failed)?;
        let Some(row) = row else { return Ok(Some(Err(format!("operation {id} is not there any more")))) };
        let status: String = row.try_get(0).map_err(failed)?;
        let error: Option<String> = row.try_get(1).map_err(failed)?;
        Ok(match status.as_str() {
            "done" => Some(Ok(())),
            "failed" | "cancelled" => Some(Err(error.unwrap_or_else(|| format!("operation {id} was {status}")))),
            _ => None,
        })
    }
}
