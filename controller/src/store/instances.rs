//! Rows of instances. A list and a show are one query each, joined with their versions and with what the agents last said.
//!
//! Methods with `conn` take part in the caller's transaction. Each of them is idempotent, touches only an instance that
//! is not deleted, and sets `updated`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use sqlx::AssertSqlSafe;
use time::OffsetDateTime;
use trove_strategy::{Manifest, Size};

use super::{Store, from_micros};
use crate::error::{Error, Result};
use crate::ids::{DatastoreId, InstanceId, ProjectId, VersionId};
use crate::model::{Access, Artifact, Datastore, Fault, Flavor, Instance, InstanceLabels, Nic, Version};
use crate::state::{HostState, LastSeen, Service, Task};
use crate::store::quota::Amounts;
use crate::store::sql::{Column, Connection, Row, query};

mod sizes;

/// Columns and joins of an [`Instance`] at the time `$1`; `service` is `new` until an agent said otherwise, `heard` is when
/// the last controller lost its agent, and the greatest number while one hears it.
const SELECT: &str = "select i.id, i.project_id, i.name, i.flavor_id, i.flavor_name, i.ram_mib, i.vcpus, i.volume_gib, i.version_id, i.region, i.address, i.port, \
     i.access, i.nics, i.task, i.host, i.fault_message, i.fault_details, i.fault_created, i.root_enabled_at, i.root_enabled_by, i.created, i.updated, i.deleted, \
     a.service, a.service_detail, a.service_updated, a.volume_used_bytes, \
     v.name as version_name, v.number as version_number, d.id as datastore_id, d.name as datastore_name, \
     (select max(case when l.lost_at is null and c.seen_until > $1 then 9223372036854775807 \
     else coalesce(l.lost_at, c.seen_until) end) from agent_link l join controller c on c.id = l.controller_id \
     where l.instance_id = i.id) as heard";
const FROM: &str = " from instance i join datastore_version v on v.id = i.version_id \
     join datastore d on d.id = v.datastore_id left join agent a on a.instance_id = i.id";

/// What is stored of a new instance. It starts with task and host `building`, host generation 1.
#[derive(Clone, Debug)]
pub struct NewRow {
    /// Its id, made by the caller.
    pub id: InstanceId,
    pub project: ProjectId,
    pub name: String,
    pub flavor: Flavor,
    /// Size of its volume, GiB.
    pub volume_gib: u64,
    /// What it runs.
    pub version: VersionId,
    /// Region.
    pub region: String,
    /// Zone.
    pub availability_zone: Option<String>,
    /// The port that tenants connect to.
    pub port: u16,
    /// Who may connect.
    pub access: Option<Access>,
    /// Networks.
    pub nics: Vec<Nic>,
}

impl NewRow {
    /// The instance as it is read once it was written, at `created`; its version is one of this datastore.
    pub fn instance(self, datastore: &Datastore, version: Version, created: OffsetDateTime) -> Instance {
        Instance {
            id: self.id,
            project: self.project,
            name: self.name,
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
            access: self.access,
            nics: self.nics,
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

/// What the steps of an operation need to know to make a host and an assignment.
#[derive(Clone, Debug)]
pub struct HostFacts {
    pub instance: InstanceId,
    pub project: ProjectId,
    /// The host's generation.
    pub generation: u64,
    /// The datastore's name.
    pub datastore: String,
    /// What runs in it.
    pub artifact: Artifact,
    /// What was ordered.
    pub size: Size,
    /// The network interface that was ordered.
    pub nics: Vec<Nic>,
    /// From where it may be reached.
    pub access: Option<Access>,
    /// The zone that was ordered.
    pub availability_zone: Option<String>,
    /// What the driver remembers of the host; null before it is made.
    pub driver_state: serde_json::Value,
    /// Where the engine listens, once it was chosen.
    pub address: Option<IpAddr>,
    /// The port it listens on.
    pub port: u16,
    /// The account of its engine, where it has one of its own.
    pub engine_uid: Option<u32>,
}

/// Which instances the management list shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter<'a> {
    /// Only this project's.
    pub project: Option<&'a ProjectId>,
    /// Only deleted ones, or only those that are not.
    pub deleted: Option<bool>,
}

impl Store {
    /// An instance, also a deleted one.
    pub async fn get_instance(&self, id: InstanceId) -> Result<Option<Instance>> {
        let now = self.now_micros();
        let sql = AssertSqlSafe(format!("{SELECT}{FROM} where i.id = $2"));
        let row = query(sql).bind(now).bind(id.to_string()).fetch_optional(&self.read).await;
        row.map_err(failed("read", id))?.map(|row| instance(&row, now)).transpose()
    }

    /// An instance that is not deleted, with the manifest of its version.
    pub async fn get_instance_with_manifest(&self, id: InstanceId) -> Result<Option<(Instance, Arc<Manifest>)>> {
        let found = self.get_instance(id).await?.filter(|instance| instance.deleted.is_none());
        let Some(instance) = found else { return Ok(None) };
        let version = instance.version_id;
        let manifest = self.get_manifest(version).await?;
        Ok(Some((instance, manifest.ok_or_else(|| damaged("version_id", &version.to_string()))?)))
    }

    /// At most `limit` of a project's instances that are not deleted, the newest first, after the one whose id `marker` is;
    /// that one may have been deleted. None when there never was one.
    pub async fn list_instances(&self, project: &ProjectId, marker: Option<&str>, limit: u32) -> Result<Vec<Instance>> {
        let now = self.now_micros();
        let after = match marker {
            None => "",
            Some(_) => "and (i.created, i.id) < (select created, id from instance where project_id = $2 and id = $4)",
        };
        let sql = AssertSqlSafe(format!(
            "{SELECT}{FROM} where i.project_id = $2 and i.deleted is null {after} order by i.created desc, i.id desc limit $3"
        ));
        let query = query(sql).bind(now).bind(&project.0).bind(i64::from(limit));
        let query = if let Some(marker) = marker { query.bind(marker) } else { query };
        let rows = query
            .fetch_all(&self.read)
            .await
            .map_err(|error| Error::internal("list the instances of a project", error))?;
        rows.iter().map(|row| instance(row, now)).collect()
    }

    /// At most `limit` instances of all projects after the first `offset`, by last change descending.
    pub async fn list_all_instances(&self, filter: Filter<'_>, offset: u64, limit: u32) -> Result<Vec<Instance>> {
        let now = self.now_micros();
        let sql = AssertSqlSafe(format!(
            "{SELECT}{FROM} where ($2 is null or i.project_id = $2) \
             and ($3 is null or (i.deleted is not null) = $3) \
             order by i.updated desc, i.id desc limit $4 offset $5"
        ));
        let rows = query(sql)
            .bind(now)
            .bind(filter.project.map(|project| project.0.as_str()))
            .bind(filter.deleted)
            .bind(i64::from(limit))
            .bind(i64::try_from(offset).unwrap_or(i64::MAX))
            .fetch_all(&self.read)
            .await
            .map_err(|error| Error::internal("list all instances", error))?;
        rows.iter().map(|row| instance(row, now)).collect()
    }

    /// The instances of a project, or of all, that are not deleted, by id.
    pub async fn present_instances(&self, project: Option<&ProjectId>) -> Result<Vec<Instance>> {
        let now = self.now_micros();
        let sql = AssertSqlSafe(format!(
            "{SELECT}{FROM} where ($2 is null or i.project_id = $2) and i.deleted is null order by i.id"
        ));
        let rows = query(sql).bind(now).bind(project.map(|project| project.0.as_str())).fetch_all(&self.read).await;
        let rows = rows.map_err(|error| Error::internal("list the instances that there are", error))?;
        rows.iter().map(|row| instance(row, now)).collect()
    }

    /// What tells the figures of instances that are not deleted from each other.
    pub async fn instance_labels(&self) -> Result<Vec<InstanceLabels>> {
        let rows = query(
            "select i.id, i.project_id, i.ram_mib, i.volume_gib, d.name as datastore_name from instance i \
             join datastore_version v on v.id = i.version_id join datastore d on d.id = v.datastore_id \
             where i.deleted is null",
        )
        .fetch_all(&self.read)
        .await
        .map_err(|error| Error::internal("list what instances there are", error))?;
        let read = |row: &Row| {
            Ok(InstanceLabels {
                id: parsed(row, "id")?,
                project: ProjectId(column(row, "project_id")?),
                datastore: column(row, "datastore_name")?,
                ram_mib: unsigned(row, "ram_mib")?,
                volume_gib: unsigned(row, "volume_gib")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// What is needed to make its host; `None` once it is deleted.
    pub async fn host_facts(&self, id: InstanceId) -> Result<Option<HostFacts>> {
        let row = query(
            "select i.project_id, i.generation, i.ram_mib, i.vcpus, i.volume_gib, i.address, i.port, i.engine_uid, \
             i.nics, i.access, i.availability_zone, i.driver_state, v.agent_program, v.manifest, d.name as datastore_name from instance i \
             join datastore_version v on v.id = i.version_id join datastore d on d.id = v.datastore_id \
             where i.id = $1 and i.deleted is null",
        )
        .bind(id.to_string())
        .fetch_optional(&self.read)
        .await
        .map_err(failed("read the host of", id))?;
        row.map(|row| host_facts(&row, id)).transpose()
    }

    /// Stores what the driver must remember of a host.
    pub async fn set_driver_state(&self, id: InstanceId, state: &serde_json::Value) -> Result<()> {
        query("update instance set driver_state = $2 where id = $1")
            .bind(id.to_string())
            .bind(state.to_string())
            .execute(&self.write)
            .await
            .map_err(failed("write what the driver remembers of", id))?;
        Ok(())
    }

    /// Inserts the row, and says at what time; quota is the caller's, in the same transaction.
    pub async fn insert_instance(&self, conn: &mut Connection, new: &NewRow) -> Result<OffsetDateTime> {
        let created = self.now_micros();
        let written = |what, error| Error::internal(format!("write {what} of instance {}", new.id), error);
        let access = new.access.as_ref().map(serde_json::to_string).transpose();
        query(
            "insert into instance (id, project_id, name, flavor_id, flavor_name, ram_mib, vcpus, volume_gib, \
             version_id, region, availability_zone, port, access, nics, task, host, generation, created, updated) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, 1, $17, $17)",
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
        .bind(&new.availability_zone)
        .bind(i64::from(new.port))
        .bind(access.map_err(|error| written("access", error))?)
        .bind(serde_json::to_string(&new.nics).map_err(|error| written("nics", error))?)
        .bind(Task::Building.tag())
        .bind(HostState::Building.tag())
        .bind(created)
        .execute(conn)
        .await
        .map_err(failed("insert", new.id))?;
        Ok(from_micros(created))
    }

    /// Renames it. `false`: there is none of that project, or of any when `project` is `None`.
    pub async fn rename_instance(&self, id: InstanceId, project: Option<&ProjectId>, name: &str) -> Result<bool> {
        let done = query(
            "update instance set name = $2, updated = $3 \
             where id = $1 and deleted is null and ($4 is null or project_id = $4)",
        )
        .bind(id.to_string())
        .bind(name)
        .bind(self.now_micros())
        .bind(project.map(|project| project.0.as_str()))
        .execute(&self.write)
        .await
        .map_err(failed("rename", id))?;
        Ok(done.rows_affected() == 1)
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

    /// Where its engine listens. `false`: another instance has that address and port, or this one is deleted.
    pub async fn set_address(&self, conn: &mut Connection, id: InstanceId, address: IpAddr) -> Result<bool> {
        // The condition instead of the unique index's error, which would spoil the caller's transaction on PostgreSQL.
        let done = query(
            "update instance set address = $2, updated = $3 where id = $1 and deleted is null and not exists \
             (select 1 from instance o where o.address = $2 and o.port = instance.port and o.deleted is null \
             and o.id <> instance.id)",
        )
        .bind(id.to_string())
        .bind(address.to_string())
        .bind(self.now_micros())
        .execute(conn)
        .await
        .map_err(failed("set the address of", id))?;
        Ok(done.rows_affected() == 1)
    }

    /// That its engine listens nowhere: the address is free for others.
    pub async fn clear_address(&self, conn: &mut Connection, id: InstanceId) -> Result<()> {
        query("update instance set address = null, updated = $2 where id = $1 and deleted is null")
            .bind(id.to_string())
            .bind(self.now_micros())
            .execute(conn)
            .await
            .map_err(failed("clear the address of", id))?;
        Ok(())
    }

    /// The account of its engine. `false`: another instance has it, or this one has another or is deleted.
    pub async fn set_engine_uid(&self, conn: &mut Connection, id: InstanceId, uid: u32) -> Result<bool> {
        // The condition instead of the unique index's error, as for addresses.
        let done = query(
            "update instance set engine_uid = $2 where id = $1 and deleted is null and engine_uid is null and not exists \
             (select 1 from instance o where o.engine_uid = $2 and o.deleted is null)",
        )
        .bind(id.to_string())
        .bind(i64::from(uid))
        .execute(conn)
        .await
        .map_err(failed("set the account of", id))?;
        Ok(done.rows_affected() == 1)
    }

    /// That its engine has no account: the host is gone, and others may have it.
    pub async fn clear_engine_uid(&self, conn: &mut Connection, id: InstanceId) -> Result<()> {
        query("update instance set engine_uid = null where id = $1 and deleted is null")
            .bind(id.to_string())
            .execute(conn)
            .await
            .map_err(failed("clear the account of", id))?;
        Ok(())
    }

    /// The accounts of all engines.
    pub async fn engine_uids(&self) -> Result<BTreeSet<u32>> {
        let rows = query("select engine_uid from instance where engine_uid is not null and deleted is null")
            .fetch_all(&self.read)
            .await
            .map_err(|error| Error::internal("list the accounts of engines", error))?;
        rows.iter().filter_map(|row| maybe_uid(row).transpose()).collect()
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

    /// That it is gone: gives back its quota and its address.
    pub async fn mark_deleted(&self, conn: &mut Connection, id: InstanceId) -> Result<()> {
        let row = query(
            "update instance set deleted = $2, updated = $2, task = $3, host = $4 \
             where id = $1 and deleted is null returning project_id, ram_mib, volume_gib",
        )
        .bind(id.to_string())
        .bind(self.now_micros())
        .bind(Task::None.tag())
        .bind(HostState::Absent.tag())
        .fetch_optional(&mut *conn)
        .await
        .map_err(failed("delete", id))?;
        let Some(row) = row else { return Ok(()) };
        let project = ProjectId(column(&row, "project_id")?);
        let amounts = Amounts::instance(unsigned(&row, "ram_mib")?, unsigned(&row, "volume_gib")?);
        self.count_use(conn, &project, amounts.negated()).await
    }
}

fn failed(verb: &'static str, id: InstanceId) -> impl FnOnce(sqlx::Error) -> Error {
    move |error| Error::internal(format!("{verb} instance {id}"), error)
}

/// Sizes are bounded far below this by the checks of an order.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn column<T: Column>(row: &Row, name: &'static str) -> Result<T> {
    row.try_get(name).map_err(|error| Error::internal(format!("read the column {name}"), error))
}

fn damaged(name: &'static str, value: &str) -> Error {
    Error::Internal { attempt: format!("read the column {name}: {value:?} is not a value of it"), source: None }
}

fn unsigned(row: &Row, name: &'static str) -> Result<u64> {
    let value: i64 = column(row, name)?;
    u64::try_from(value).map_err(|_| damaged(name, &value.to_string()))
}

fn narrow<T: TryFrom<i64>>(row: &Row, name: &'static str) -> Result<T> {
    let value: i64 = column(row, name)?;
    T::try_from(value).map_err(|_| damaged(name, &value.to_string()))
}

fn time(row: &Row, name: &'static str) -> Result<OffsetDateTime> {
    column(row, name).map(from_micros)
}

fn text<'r>(row: &'r Row, name: &'static str) -> Result<&'r str> {
    maybe_text(row, name)?.ok_or_else(|| damaged(name, "null"))
}

fn maybe_text<'r>(row: &'r Row, name: &'static str) -> Result<Option<&'r str>> {
    row.try_text(name).map_err(|error| Error::internal(format!("read the column {name}"), error))
}

fn parsed<T: FromStr>(row: &Row, name: &'static str) -> Result<T> {
    let text = text(row, name)?;
    text.parse().map_err(|_| damaged(name, text))
}

fn tagged<T>(row: &Row, name: &'static str, from_tag: fn(&str) -> Option<T>) -> Result<T> {
    let tag = text(row, name)?;
    from_tag(tag).ok_or_else(|| damaged(name, tag))
}

fn json<T: serde::de::DeserializeOwned>(row: &Row, name: &'static str) -> Result<T> {
    let text = text(row, name)?;
    serde_json::from_str(text).map_err(|error| Error::internal(format!("read the column {name}"), error))
}

fn address(row: &Row) -> Result<Option<IpAddr>> {
    let text = maybe_text(row, "address")?;
    text.map(|text| text.parse().map_err(|_| damaged("address", text))).transpose()
}

fn host_facts(row: &Row, id: InstanceId) -> Result<HostFacts> {
    let manifest: Manifest = json(row, "manifest")?;
    Ok(HostFacts {
        instance: id,
        project: ProjectId(column(row, "project_id")?),
        generation: unsigned(row, "generation")?,
        datastore: column(row, "datastore_name")?,
        artifact: Artifact::Local {
            installation: manifest.installation,
            agent_program: column::<Option<String>>(row, "agent_program")?.map(PathBuf::from),
        },
        size: Size {
            memory_mib: unsigned(row, "ram_mib")?,
            vcpus: narrow(row, "vcpus")?,
            volume_gib: unsigned(row, "volume_gib")?,
        },
        address: address(row)?,
        port: narrow(row, "port")?,
        engine_uid: maybe_uid(row)?,
        nics: json(row, "nics")?,
        access: access(row)?,
        availability_zone: column(row, "availability_zone")?,
        driver_state: maybe_text(row, "driver_state")?
            .map_or(Ok(serde_json::Value::Null), serde_json::from_str)
            .map_err(|error| Error::internal("read the column driver_state", error))?,
    })
}

fn access(row: &Row) -> Result<Option<Access>> {
    let access = maybe_text(row, "access")?.map(serde_json::from_str).transpose();
    access.map_err(|error| Error::internal("read the column access", error))
}

fn maybe_uid(row: &Row) -> Result<Option<u32>> {
    let uid: Option<i64> = column(row, "engine_uid")?;
    uid.map(|uid| u32::try_from(uid).map_err(|_| damaged("engine_uid", &uid.to_string()))).transpose()
}

/// One of [`SELECT`] as it was at `now`.
fn instance(row: &Row, now: i64) -> Result<Instance> {
    let created = time(row, "created")?;
    let used: Option<i64> = column(row, "volume_used_bytes")?;
    Ok(Instance {
        id: InstanceId(parsed(row, "id")?),
        project: ProjectId(column(row, "project_id")?),
        name: column(row, "name")?,
        flavor: flavor(row)?,
        volume_gib: unsigned(row, "volume_gib")?,
        volume_used_bytes: used.and_then(|bytes| u64::try_from(bytes).ok()),
        datastore_id: DatastoreId(parsed(row, "datastore_id")?),
        datastore: column(row, "datastore_name")?,
        version_id: VersionId(parsed(row, "version_id")?),
        version: column(row, "version_name")?,
        version_number: column(row, "version_number")?,
        region: column(row, "region")?,
        address: address(row)?,
        port: narrow(row, "port")?,
        access: access(row)?,
        nics: json(row, "nics")?,
        task: tagged(row, "task", Task::from_tag)?,
        service: service(row)?,
        service_detail: maybe_text(row, "service_detail")?.unwrap_or_default().to_owned(),
        service_updated: column::<Option<i64>>(row, "service_updated")?.map_or(created, from_micros),
        host: tagged(row, "host", HostState::from_tag)?,
        heard: heard(row)?,
        fault: fault(row)?,
        created,
        updated: time(row, "updated")?,
        deleted: column::<Option<i64>>(row, "deleted")?.map(from_micros),
        root_enabled: root_enabled(row)?,
        heartbeat_expiry_s: 0,
        read: from_micros(now),
    })
}

fn flavor(row: &Row) -> Result<Flavor> {
    Ok(Flavor {
        id: column(row, "flavor_id")?,
        name: column(row, "flavor_name")?,
        ram_mib: unsigned(row, "ram_mib")?,
        vcpus: narrow(row, "vcpus")?,
    })
}

fn service(row: &Row) -> Result<Service> {
    let tag = maybe_text(row, "service")?;
    tag.map_or(Ok(Service::New), |tag| Service::from_tag(tag).ok_or_else(|| damaged("service", tag)))
}

fn heard(row: &Row) -> Result<LastSeen> {
    Ok(match column(row, "heard")? {
        None => LastSeen::Never,
        Some(i64::MAX) => LastSeen::Now,
        Some(last) => LastSeen::Last(from_micros(last)),
    })
}

fn fault(row: &Row) -> Result<Option<Fault>> {
    let Some(message) = column(row, "fault_message")? else { return Ok(None) };
    let details: Option<String> = column(row, "fault_details")?;
    let details = details.unwrap_or_default();
    Ok(Some(Fault { message, details, created: time(row, "fault_created")? }))
}

fn root_enabled(row: &Row) -> Result<Option<(OffsetDateTime, String)>> {
    let at: Option<i64> = column(row, "root_enabled_at")?;
    let by: Option<String> = column(row, "root_enabled_by")?;
    Ok(at.map(from_micros).zip(by))
}

#[cfg(test)]
mod tests;
