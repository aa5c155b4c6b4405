//! Rows of instances. A list and a show are one query each, joined with their versions and with what the agents last said.
//!
//! Methods with `conn` take part in the caller's transaction. Each of them is idempotent, touches only an instance that
//! is not deleted, and sets `updated`.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::AssertSqlSafe;
use time::OffsetDateTime;
use trove_strategy::Manifest;

use super::{Store, from_micros};
use crate::error::{Error, Result};
use crate::ids::{ConfigurationId, DatastoreId, InstanceId, ProjectId, VersionId};
use crate::model::configurations::{AttachedConfiguration, ParameterResult};
use crate::model::{Fault, Flavor, Instance, InstanceLabels, Purpose};
use crate::state::{HostState, LastSeen, Service, Task};
use crate::store::sql::{Row, query};

mod placement;
pub(super) mod rows;
mod sizes;
mod writes;

pub use placement::HostFacts;
use rows::{
    access, address, column, damaged, failed, json, locality, maybe_text, narrow, parsed, tagged, time, unsigned,
};
pub use writes::{Edit, NewRow};

/// Columns and joins of an [`Instance`] at the time `$1`; `service` is `new` until an agent said otherwise, `heard` is when
/// the last controller lost its agent, and the greatest number while one hears it.
const SELECT: &str = "select i.id, i.project_id, i.name, i.purpose, i.flavor_id, i.flavor_name, i.ram_mib, i.vcpus, i.volume_gib, i.version_id, i.region, i.address, i.port, \
     i.access, i.nics, i.locality, i.task, i.host, i.fault_message, i.fault_details, i.fault_created, i.root_enabled_at, i.root_enabled_by, i.created, i.updated, i.deleted, \
     i.deletion_protection, i.configuration_id, c.name as configuration_name, i.parameter_results, \
     a.service, a.service_detail, a.service_updated, a.volume_used_bytes, \
     v.name as version_name, v.number as version_number, d.id as datastore_id, d.name as datastore_name, \
     (select max(case when l.lost_at is null and c.seen_until > $1 then 9223372036854775807 \
     else coalesce(l.lost_at, c.seen_until) end) from agent_link l join controller c on c.id = l.controller_id \
     where l.instance_id = i.id) as heard, \
     exists (select 1 from backup b where b.instance_id = i.id and b.state in ('NEW', 'BUILDING', 'SAVING')) as backing_up";
const FROM: &str = " from instance i join datastore_version v on v.id = i.version_id \
     join datastore d on d.id = v.datastore_id left join agent a on a.instance_id = i.id \
     left join configuration c on c.id = i.configuration_id";

/// Which instances the management list shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter<'a> {
    /// Only this project's.
    pub project: Option<&'a ProjectId>,
    /// Whether it shows deleted ones.
    pub deleted: Deleted,
}

/// Whether a list shows deleted instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deleted {
    /// Beside the others.
    #[default]
    Included,
    /// Only those.
    Only,
    /// None of them.
    Excluded,
}

impl Deleted {
    /// Its condition.
    fn sql(self) -> &'static str {
        match self {
            Self::Included => "",
            Self::Only => "and i.deleted is not null",
            Self::Excluded => "and i.deleted is null",
        }
    }
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

    /// At most `limit` of a project's own instances that are not deleted, the newest first, after the one whose id `marker` is;
    /// that one may have been deleted. None when there never was one.
    pub async fn list_instances(&self, project: &ProjectId, marker: Option<&str>, limit: u32) -> Result<Vec<Instance>> {
        let now = self.now_micros();
        let after = match marker {
            None => "",
            Some(_) => "and (i.created, i.id) < (select created, id from instance where project_id = $2 and id = $4)",
        };
        let sql = AssertSqlSafe(format!(
            "{SELECT}{FROM} where i.project_id = $2 and i.deleted is null and i.purpose is null {after} order by i.created desc, i.id desc limit $3"
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
        let deleted = filter.deleted.sql();
        let sql = AssertSqlSafe(format!(
            "{SELECT}{FROM} where ($2 is null or i.project_id = $2) {deleted} \
             order by i.updated desc, i.id desc limit $3 offset $4"
        ));
        let rows = query(sql)
            .bind(now)
            .bind(filter.project.map(|project| project.0.as_str()))
            .bind(i64::from(limit))
            .bind(i64::try_from(offset).unwrap_or(i64::MAX))
            .fetch_all(&self.read)
            .await
            .map_err(|error| Error::internal("list all instances", error))?;
        rows.iter().map(|row| instance(row, now)).collect()
    }

    /// A project's own instances, or all that there are, that are not deleted, by id.
    pub async fn present_instances(&self, project: Option<&ProjectId>) -> Result<Vec<Instance>> {
        let now = self.now_micros();
        let sql = AssertSqlSafe(format!(
            "{SELECT}{FROM} where ($2 is null or i.project_id = $2 and i.purpose is null) \
             and i.deleted is null order by i.id"
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
}

/// One of [`SELECT`] as it was at `now`.
fn instance(row: &Row, now: i64) -> Result<Instance> {
    let created = time(row, "created")?;
    let used: Option<i64> = column(row, "volume_used_bytes")?;
    Ok(Instance {
        id: InstanceId(parsed(row, "id")?),
        project: ProjectId(column(row, "project_id")?),
        name: column(row, "name")?,
        purpose: purpose(row)?,
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
        locality: locality(row)?,
        configuration: configuration(row)?,
        parameter_results: parameter_results(row)?,
        backing_up: column(row, "backing_up")?,
        deletion_protection: column(row, "deletion_protection")?,
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

fn purpose(row: &Row) -> Result<Option<Purpose>> {
    let tag = maybe_text(row, "purpose")?;
    tag.map(|tag| Purpose::from_tag(tag).ok_or_else(|| damaged("purpose", tag))).transpose()
}

fn flavor(row: &Row) -> Result<Flavor> {
    Ok(Flavor {
        id: column(row, "flavor_id")?,
        name: column(row, "flavor_name")?,
        ram_mib: unsigned(row, "ram_mib")?,
        vcpus: narrow(row, "vcpus")?,
    })
}

fn configuration(row: &Row) -> Result<Option<AttachedConfiguration>> {
    let Some(name) = column(row, "configuration_name")? else { return Ok(None) };
    Ok(Some(AttachedConfiguration { id: ConfigurationId(parsed(row, "configuration_id")?), name }))
}

fn parameter_results(row: &Row) -> Result<BTreeMap<String, ParameterResult>> {
    let none = maybe_text(row, "parameter_results")?.is_none();
    if none { Ok(BTreeMap::new()) } else { json(row, "parameter_results") }
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
