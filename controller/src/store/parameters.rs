//! Rows of instances: results of setting parameters.

use std::collections::BTreeMap;

use super::Store;
use super::instances::rows::{json, maybe_text, parsed};
use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::model::configurations::ParameterResult;
use crate::store::sql::{Connection, Row, Target, query};

impl Store {
    /// Result of each parameter that was last set on the instance.
    pub async fn parameter_results<'a>(
        &self,
        target: impl Into<Target<'a>>,
        instance: InstanceId,
    ) -> Result<BTreeMap<String, ParameterResult>> {
        let row = query("select parameter_results from instance where id = $1")
            .bind(instance.to_string())
            .fetch_optional(target)
            .await
            .map_err(|error| Error::internal(format!("read what became of the parameters of {instance}"), error))?;
        match row {
            Some(row) if maybe_text(&row, "parameter_results")?.is_some() => json(&row, "parameter_results"),
            _ => Ok(BTreeMap::new()),
        }
    }

    /// Instances with a parameter that takes effect with the engine's next start, and without an active operation.
    pub async fn list_waiting_parameters(&self) -> Result<Vec<InstanceId>> {
        let rows = query(
            "select i.id from instance i where i.deleted is null and i.parameter_results like '%\"needs_restart\"%' \
             and not exists (select 1 from operation_target t where t.resource = i.id and t.active) order by i.id",
        )
        .fetch_all(&self.read)
        .await
        .map_err(|error| Error::internal("list the parameters that wait for a start", error))?;
        rows.iter().map(|row: &Row| Ok(InstanceId(parsed(row, "id")?))).collect()
    }

    /// Clears the fault of an instance if its message begins with `beginning`.
    pub async fn clear_fault_of(&self, conn: &mut Connection, instance: InstanceId, beginning: &str) -> Result<()> {
        query(
            "update instance set fault_message = null, fault_details = null, fault_created = null, updated = $3 \
             where id = $1 and deleted is null and substr(fault_message, 1, length($2)) = $2",
        )
        .bind(instance.to_string())
        .bind(beginning)
        .bind(self.now_micros())
        .execute(conn)
        .await
        .map_err(|error| Error::internal(format!("clear the fault of instance {instance}"), error))?;
        Ok(())
    }
}
