//! What is written of an instance by orders and operations.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;
use time::OffsetDateTime;

use super::rows::{column, failed, signed, tagged, unsigned};
use crate::error::{Error, Result};
use crate::ids::{InstanceId, ProjectId, VersionId};
use crate::model::configurations::AttachedConfiguration;
use crate::model::{Datastore, Flavor, Instance, Locality, Purpose, Requirements, Version};
use crate::state::{HostState, LastSeen, Service, Task};
use crate::store::quota::Amounts;
use crate::store::sql::{Connection, Row, query};
use crate::store::{Store, from_micros};

/// What is stored of a new instance. It starts with task and host `building`, host generation 1.
#[derive(Clone, Debug)]
pub struct NewRow {
    /// Its id, made by the caller.
    pub id: InstanceId,
    pub project: ProjectId,
    pub name: String,
    /// `None`: it is a tenant's, and counts against the quota.
    pub purpose: Option<Purpose>,
    pub flavor: Flavor,
    /// Size of its volume, GiB.
    pub volume_gib: u64,
    /// What it runs.
    pub version: VersionId,
    /// Region.
    pub region: String,
    /// The port that tenants connect to.
    pub port: u16,
    /// What was ordered of the host.
    pub requirements: Requirements,
    /// Its configuration group.
    pub configuration: Option<AttachedConfiguration>,
    /// Whether it cannot be deleted.
    pub deletion_protection: bool,
}

/// What an instance's owner may change of it whatever is done with it; `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct Edit<'a> {
    /// Another name.
    pub name: Option<&'a str>,
    /// Whether it cannot be deleted.
    pub deletion_protection: Option<bool>,
}

impl NewRow {
    /// The instance as it is read once it was written, at `created`; its version is one of this datastore.
    pub fn instance(self, datastore: &Datastore, version: Version, created: OffsetDateTime) -> Instance {
        Instance {
            id: self.id,
            project: self.project,
            name: self.name,
            purpose: self.purpose,
            flavor: self.flavor,
            volume_gib: self.volume_gib,
            volume_used_bytes: None,
            datastore_id: datastore.id,
            datastore: datastore.name.clone(),
            version_id: version.id,
            version: version.name,
            version_number: version.number,
            region: self.region,
            address: None,
            port: self.port,
            access: self.requirements.access,
            nics: self.requirements.nics,
            locality: self.requirements.locality,
            configuration: self.configuration,
            parameter_results: BTreeMap::new(),
            backing_up: false,
            deletion_protection: self.deletion_protection,
            task: Task::Building,
            service: Service::New,
            service_detail: String::new(),
            service_updated: created,
            host: HostState::Building,
            heard: LastSeen::Never,
            fault: None,
            created,
            updated: created,
            deleted: None,
            root_enabled: None,
            heartbeat_expiry_s: 0,
            read: created,
        }
    }
}

impl Store {
    /// Inserts the row, and says at what time; quota is the caller's, in the same transaction.
    pub async fn insert_instance(&self, conn: &mut Connection, new: &NewRow) -> Result<OffsetDateTime> {
        let created = self.now_micros();
        let written = |what, error| Error::internal(format!("write {what} of instance {}", new.id), error);
        let wanted = &new.requirements;
        let access = wanted.access.as_ref().map(serde_json::to_string).transpose();
        query(
            "insert into instance (id, project_id, name, flavor_id, flavor_name, ram_mib, vcpus, volume_gib, \
             version_id, region, availability_zone, port, access, nics, task, host, generation, created, updated, \
             volume_type, locality, configuration_id, deletion_protection, purpose) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, 1, $17, $17, $18, $19, $20, $21, $22)",
        )
        .bind(new.id.to_string())
        .bind(&new.project.0)
        .bind(&new.name)
        .bind(&new.flavor.id)
        .bind(&new.flavor.name)
        .bind(signed(new.flavor.ram_mib))
        .bind(i64::from(new.flavor.vcpus))
        .bind(signed(new.volume_gib))
        .bind(new.version.to_string())
        .bind(&new.region)
        .bind(&wanted.availability_zone)
        .bind(i64::from(new.port))
        .bind(access.map_err(|error| written("access", error))?)
        .bind(serde_json::to_string(&wanted.nics).map_err(|error| written("nics", error))?)
        .bind(Task::Building.tag())
        .bind(HostState::Building.tag())
        .bind(created)
        .bind(&wanted.volume_type)
        .bind(wanted.locality.map(Locality::tag))
        .bind(new.configuration.as_ref().map(|configuration| configuration.id.to_string()))
        .bind(new.deletion_protection)
        .bind(new.purpose.map(Purpose::tag))
        .execute(conn)
        .await
        .map_err(failed("insert", new.id))?;
        Ok(from_micros(created))
    }

    /// Writes what its owner may change at any time of a tenant's. `false`: there is none of that project, or of any when `project` is `None`;
    /// or it is to be protected and is being deleted.
    pub async fn edit_instance(&self, id: InstanceId, project: Option<&ProjectId>, edit: &Edit<'_>) -> Result<bool> {
        let done = query(
            "update instance set name = coalesce($2, name), updated = $3, \
             deletion_protection = coalesce($5, deletion_protection) \
             where id = $1 and deleted is null and purpose is null and ($4 is null or project_id = $4) and ($5 is null or task <> 'deleting')",
        )
        .bind(id.to_string())
        .bind(edit.name)
        .bind(self.now_micros())
        .bind(project.map(|project| project.0.as_str()))
        .bind(edit.deletion_protection)
        .execute(&self.write)
        .await
        .map_err(failed("edit", id))?;
        Ok(done.rows_affected() == 1)
    }

    /// Whether it cannot be deleted now, in a transaction that would.
    pub async fn is_protected(&self, conn: &mut Connection, id: InstanceId) -> Result<bool> {
        let row = query("select deletion_protection from instance where id = $1").bind(id.to_string());
        let row = row.fetch_optional(conn).await.map_err(failed("look whether to keep", id))?;
        row.map_or(Ok(false), |row| column(&row, "deletion_protection"))
    }

    /// What the controller does with it.
    pub async fn set_task(&self, conn: &mut Connection, id: InstanceId, task: Task) -> Result<()> {
        query("update instance set task = $2, updated = $3 where id = $1 and deleted is null")
            .bind(id.to_string())
            .bind(task.tag())
            .bind(self.now_micros())
            .execute(conn)
            .await
            .map_err(failed("set the task of", id))?;
        Ok(())
    }

    /// Sets the task where it is one of `from`. `false`: it is another one, or the instance is deleted.
    pub async fn begin_task(&self, conn: &mut Connection, id: InstanceId, from: &[Task], task: Task) -> Result<bool> {
        let from: Vec<String> = from.iter().map(|task| format!("'{}'", task.tag())).collect();
        let sql = AssertSqlSafe(format!(
            "update instance set task = $2, updated = $3 where id = $1 and deleted is null and task in ({})",
            from.join(", ")
        ));
        let done = query(sql)
            .bind(id.to_string())
            .bind(task.tag())
            .bind(self.now_micros())
            .execute(conn)
            .await
            .map_err(failed("set the task of", id))?;
        Ok(done.rows_affected() == 1)
    }

    /// What the controller does with it, for a transaction that depends on it; `None` once it is deleted.
    pub async fn task(&self, conn: &mut Connection, id: InstanceId) -> Result<Option<Task>> {
        let row = query("select task from instance where id = $1 and deleted is null")
            .bind(id.to_string())
            .fetch_optional(conn)
            .await
            .map_err(failed("read the task of", id))?;
        row.map(|row| tagged(&row, "task", Task::from_tag)).transpose()
    }

    /// What the compute driver said.
    pub async fn set_host(&self, conn: &mut Connection, id: InstanceId, host: HostState) -> Result<()> {
        query("update instance set host = $2, updated = $3 where id = $1 and deleted is null")
            .bind(id.to_string())
            .bind(host.tag())
            .bind(self.now_micros())
            .execute(conn)
            .await
            .map_err(failed("set the host of", id))?;
        Ok(())
    }

    /// Why it is in error (message and details), or that it no longer is.
    pub async fn set_fault(&self, conn: &mut Connection, id: InstanceId, fault: Option<(&str, &str)>) -> Result<()> {
        let time = self.now_micros();
        query(
            "update instance set fault_message = $2, fault_details = $3, fault_created = $4, updated = $5 \
             where id = $1 and deleted is null",
        )
        .bind(id.to_string())
        .bind(fault.map(|(message, _)| message))
        .bind(fault.map(|(_, details)| details))
        .bind(fault.map(|_| time))
        .bind(time)
        .execute(conn)
        .await
        .map_err(failed("set the fault of", id))?;
        Ok(())
    }

    /// That this user enabled root, or that root is disabled.
    pub async fn set_root(&self, conn: &mut Connection, id: InstanceId, user: Option<&str>) -> Result<()> {
        let time = self.now_micros();
        query(
            "update instance set root_enabled_at = $2, root_enabled_by = $3, updated = $4, \
             root_last_enabled_at = coalesce($2, root_last_enabled_at), \
             root_last_enabled_by = coalesce($3, root_last_enabled_by) \
             where id = $1 and deleted is null",
        )
        .bind(id.to_string())
        .bind(user.map(|_| time))
        .bind(user)
        .bind(time)
        .execute(conn)
        .await
        .map_err(failed("set the root of", id))?;
        Ok(())
    }

    /// That its host is of this version.
    pub async fn set_version(&self, conn: &mut Connection, id: InstanceId, version: VersionId) -> Result<()> {
        query("update instance set version_id = $2, updated = $3 where id = $1 and deleted is null")
            .bind(id.to_string())
            .bind(version.to_string())
            .bind(self.now_micros())
            .execute(conn)
            .await
            .map_err(failed("set the version of", id))?;
        Ok(())
    }

    /// When root was last enabled and by which user id, if it ever was; `None` where there is no such instance.
    pub async fn root_history(&self, id: InstanceId) -> Result<Option<Option<(OffsetDateTime, String)>>> {
        let row =
            query("select root_last_enabled_at, root_last_enabled_by from instance where id = $1 and deleted is null")
                .bind(id.to_string())
                .fetch_optional(&self.read)
                .await
                .map_err(failed("read the root of", id))?;
        let read = |row: Row| {
            let at: Option<i64> = column(&row, "root_last_enabled_at")?;
            let by: Option<String> = column(&row, "root_last_enabled_by")?;
            Ok(at.map(from_micros).zip(by))
        };
        row.map(read).transpose()
    }

    /// By whom root was last enabled, also of an instance that is gone.
    pub async fn root_ever_by(&self, id: InstanceId) -> Result<Option<String>> {
        let row = query("select root_last_enabled_by from instance where id = $1").bind(id.to_string());
        let row = row.fetch_optional(&self.read).await.map_err(failed("read the root of", id))?;
        Ok(row.map(|row| column(&row, "root_last_enabled_by")).transpose()?.flatten())
    }

    /// That it is gone: gives back its quota, its address and its configuration group, and takes its schedules along.
    pub async fn mark_deleted(&self, conn: &mut Connection, id: InstanceId) -> Result<()> {
        let row = query(
            "update instance set deleted = $2, updated = $2, task = $3, host = $4, configuration_id = null \
             where id = $1 and deleted is null returning project_id, ram_mib, volume_gib, purpose",
        )
        .bind(id.to_string())
        .bind(self.now_micros())
        .bind(Task::None.tag())
        .bind(HostState::Absent.tag())
        .fetch_optional(&mut *conn)
        .await
        .map_err(failed("delete", id))?;
        let Some(row) = row else { return Ok(()) };
        self.delete_backup_schedules_of(conn, id).await?;
        self.delete_log_shipping_of(conn, id).await?;
        if column::<Option<String>>(&row, "purpose")?.is_some() {
            // It was not counted.
            return Ok(());
        }
        let project = ProjectId(column(&row, "project_id")?);
        let amounts = Amounts::instance(unsigned(&row, "ram_mib")?, unsigned(&row, "volume_gib")?);
        self.count_use(conn, &project, amounts.negated()).await
    }
}
