//! Rows of configuration groups, and what instances have of them. A list and a show are one query each.
//!
//! Methods with `conn` take part in the caller's transaction.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;
use time::OffsetDateTime;

use super::instances::rows::{column, json, maybe_text, parsed, tagged, time, unsigned};
use super::{Store, from_micros};
use crate::error::{Error, Result};
use crate::ids::{ConfigurationId, DatastoreId, InstanceId, ProjectId, VersionId};
use crate::model::configurations::{Configuration, ParameterResult, Values};
use crate::state::{HostState, Task};
use crate::store::sql::{Connection, Row, Target, query};

const SELECT: &str = "select c.id, c.project_id, c.name, c.description, c.version_id, c.parameters, c.created, c.updated, \
     v.name as version_name, v.number as version_number, d.id as datastore_id, d.name as datastore_name, \
     (select count(*) from instance i where i.configuration_id = c.id and i.deleted is null) as instances \
     from configuration c join datastore_version v on v.id = c.version_id join datastore d on d.id = v.datastore_id";

/// What is stored of a new group.
#[derive(Clone, Debug)]
pub struct NewRow {
    /// Its id, made by the caller.
    pub id: ConfigurationId,
    pub project: ProjectId,
    pub name: String,
    pub description: Option<String>,
    /// The version whose instances can have it.
    pub version: VersionId,
    pub values: Values,
}

/// An instance that has a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    pub instance: InstanceId,
    pub project: ProjectId,
    pub name: String,
    /// What the controller does with it.
    pub task: Task,
}

impl Store {
    /// Inserts a group, and says at what time.
    pub async fn insert_configuration(&self, conn: &mut Connection, new: &NewRow) -> Result<OffsetDateTime> {
        let created = self.now_micros();
        query(
            "insert into configuration (id, project_id, name, description, version_id, parameters, created, updated) \
             values ($1, $2, $3, $4, $5, $6, $7, $7)",
        )
        .bind(new.id.to_string())
        .bind(&new.project.0)
        .bind(&new.name)
        .bind(&new.description)
        .bind(new.version.to_string())
        .bind(written(&new.values)?)
        .bind(created)
        .execute(conn)
        .await
        .map_err(failed("insert", new.id))?;
        Ok(from_micros(created))
    }

    /// A group.
    pub async fn get_configuration(&self, id: ConfigurationId) -> Result<Option<Configuration>> {
        read(&self.read, id).await
    }

    /// A group, in a transaction that depends on it.
    pub async fn configuration(&self, conn: &mut Connection, id: ConfigurationId) -> Result<Option<Configuration>> {
        read(conn, id).await
    }

    /// At most `limit` groups of a project, or of all, by id, after the one whose id `marker` is.
    pub async fn list_configurations(
        &self,
        project: Option<&ProjectId>,
        marker: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Configuration>> {
        let sql = AssertSqlSafe(format!(
            "{SELECT} where ($1 is null or c.project_id = $1) and ($2 is null or c.id > $2) order by c.id limit $3"
        ));
        let rows = query(sql)
            .bind(project.map(|project| project.0.as_str()))
            .bind(marker)
            .bind(i64::from(limit))
            .fetch_all(&self.read)
            .await
            .map_err(|error| Error::internal("list configuration groups", error))?;
        rows.iter().map(configuration).collect()
    }

    /// At most `limit` instances of a group that are not deleted, by id, after the one whose id `marker` is.
    pub async fn list_configuration_instances(
        &self,
        id: ConfigurationId,
        marker: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Attached>> {
        attached(&self.read, id, marker, i64::from(limit)).await
    }

    /// Every instance of a group that is not deleted, by id, in a transaction that depends on it.
    pub async fn attached_instances(&self, conn: &mut Connection, id: ConfigurationId) -> Result<Vec<Attached>> {
        attached(conn, id, None, i64::MAX).await
    }

    /// Changes name, description and values of a group.
    pub async fn change_configuration(&self, conn: &mut Connection, changed: &Configuration) -> Result<()> {
        query("update configuration set name = $2, description = $3, parameters = $4, updated = $5 where id = $1")
            .bind(changed.id.to_string())
            .bind(&changed.name)
            .bind(&changed.description)
            .bind(written(&changed.values)?)
            .bind(self.now_micros())
            .execute(conn)
            .await
            .map_err(failed("change", changed.id))?;
        Ok(())
    }

    /// Deletes a group that no instance has.
    pub async fn delete_configuration(&self, conn: &mut Connection, id: ConfigurationId) -> Result<()> {
        query("delete from configuration where id = $1")
            .bind(id.to_string())
            .execute(conn)
            .await
            .map_err(failed("delete", id))?;
        Ok(())
    }

    /// What the controller does with an instance, its host, and its group, in a transaction that depends on it; `None` once
    /// it is deleted.
    pub async fn attachment(
        &self,
        conn: &mut Connection,
        instance: InstanceId,
    ) -> Result<Option<(Task, HostState, Option<ConfigurationId>)>> {
        let row = query("select task, host, configuration_id from instance where id = $1 and deleted is null")
            .bind(instance.to_string())
            .fetch_optional(conn)
            .await
            .map_err(|error| Error::internal(format!("read the configuration group of {instance}"), error))?;
        let read = |row: Row| {
            let configuration = maybe_text(&row, "configuration_id")?.is_some();
            let configuration = configuration.then(|| parsed(&row, "configuration_id")).transpose()?;
            let (task, host) = (tagged(&row, "task", Task::from_tag)?, tagged(&row, "host", HostState::from_tag)?);
            Ok((task, host, configuration.map(ConfigurationId)))
        };
        row.map(read).transpose()
    }

    /// Gives an instance a group, or none.
    pub async fn set_configuration(
        &self,
        conn: &mut Connection,
        instance: InstanceId,
        configuration: Option<ConfigurationId>,
    ) -> Result<()> {
        query("update instance set configuration_id = $2, updated = $3 where id = $1 and deleted is null")
            .bind(instance.to_string())
            .bind(configuration.map(|id| id.to_string()))
            .bind(self.now_micros())
            .execute(conn)
            .await
            .map_err(|error| Error::internal(format!("set the configuration group of instance {instance}"), error))?;
        Ok(())
    }

    /// The values of the group that an instance has now; none without one.
    pub async fn wanted_parameters(&self, instance: InstanceId) -> Result<Values> {
        let row = query(
            "select c.parameters from instance i join configuration c on c.id = i.configuration_id where i.id = $1",
        )
        .bind(instance.to_string())
        .fetch_optional(&self.read)
        .await
        .map_err(|error| Error::internal(format!("read the parameters of instance {instance}"), error))?;
        row.map_or(Ok(Values::new()), |row| json(&row, "parameters"))
    }

    /// Writes what became of the values that an instance was given.
    pub async fn set_parameter_results(
        &self,
        conn: &mut Connection,
        instance: InstanceId,
        results: &BTreeMap<String, ParameterResult>,
    ) -> Result<()> {
        let failed = |error| Error::internal(format!("write what became of the parameters of {instance}"), error);
        let text = serde_json::to_string(results)
            .map_err(|error| Error::internal(format!("write what became of the parameters of {instance}"), error))?;
        query("update instance set parameter_results = $2, updated = $3 where id = $1 and deleted is null")
            .bind(instance.to_string())
            .bind(Some(text).filter(|_| !results.is_empty()))
            .bind(self.now_micros())
            .execute(conn)
            .await
            .map_err(failed)?;
        Ok(())
    }
}

async fn read<'a>(target: impl Into<Target<'a>>, id: ConfigurationId) -> Result<Option<Configuration>> {
    let sql = AssertSqlSafe(format!("{SELECT} where c.id = $1"));
    let row = query(sql).bind(id.to_string()).fetch_optional(target).await.map_err(failed("read", id))?;
    row.map(|row| configuration(&row)).transpose()
}

async fn attached<'a>(
    target: impl Into<Target<'a>>,
    id: ConfigurationId,
    marker: Option<&str>,
    limit: i64,
) -> Result<Vec<Attached>> {
    let rows = query(
        "select id, project_id, name, task from instance where configuration_id = $1 and deleted is null \
         and ($2 is null or id > $2) order by id limit $3",
    )
    .bind(id.to_string())
    .bind(marker)
    .bind(limit)
    .fetch_all(target)
    .await
    .map_err(failed("list the instances of", id))?;
    let read = |row: &Row| {
        Ok(Attached {
            instance: InstanceId(parsed(row, "id")?),
            project: ProjectId(column(row, "project_id")?),
            name: column(row, "name")?,
            task: tagged(row, "task", Task::from_tag)?,
        })
    };
    rows.iter().map(read).collect()
}

/// One of [`SELECT`].
fn configuration(row: &Row) -> Result<Configuration> {
    Ok(Configuration {
        id: ConfigurationId(parsed(row, "id")?),
        project: ProjectId(column(row, "project_id")?),
        name: column(row, "name")?,
        description: column(row, "description")?,
        version_id: VersionId(parsed(row, "version_id")?),
        version: column(row, "version_name")?,
        version_number: column(row, "version_number")?,
        datastore_id: DatastoreId(parsed(row, "datastore_id")?),
        datastore: column(row, "datastore_name")?,
        values: json(row, "parameters")?,
        instances: unsigned(row, "instances")?,
        created: time(row, "created")?,
        updated: time(row, "updated")?,
    })
}

fn written(values: &Values) -> Result<String> {
    serde_json::to_string(values).map_err(|error| Error::internal("write the values of a configuration group", error))
}

fn failed(verb: &'static str, id: ConfigurationId) -> impl FnOnce(sqlx::Error) -> Error {
    move |error| Error::internal(format!("{verb} configuration group {id}"), error)
}

#[cfg(test)]
mod tests;
