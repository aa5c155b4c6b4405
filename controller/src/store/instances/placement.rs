//! Where an instance lies: address, account and what the driver remembers of its host.
//!
//! What the driver said is written under the fence under which it was asked, and the row keeps the greatest: a controller that
//! has stalled in between writes nothing over what a later one was told.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use trove_strategy::{Installation, Manifest, Size};

use super::rows::{access, address, column, damaged, failed, json, locality, maybe_text, narrow, signed, unsigned};
use crate::error::{Error, Result};
use crate::ids::{InstanceId, ProjectId, VersionId};
use crate::model::{Artifact, Requirements};
use crate::store::Store;
use crate::store::sql::{Connection, Row, query};

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
    /// What was ordered of the host.
    pub requirements: Requirements,
    /// What the driver remembers of the host; null before it is made.
    pub driver_state: serde_json::Value,
    /// Where the engine listens, once it was chosen.
    pub address: Option<IpAddr>,
    /// The port it listens on.
    pub port: u16,
    /// The other one, of an engine that speaks TLS on a port of its own.
    pub tls_port: Option<u16>,
    /// The account of its engine, where it has one of its own.
    pub engine_uid: Option<u32>,
}

impl Store {
    /// What is needed to make its host, of another version than its own where one is given; `None` once it is deleted.
    pub async fn host_facts(&self, id: InstanceId, version: Option<VersionId>) -> Result<Option<HostFacts>> {
        let row = query(
            "select i.project_id, i.generation, i.ram_mib, i.vcpus, i.volume_gib, i.address, i.port, i.engine_uid, \
             i.nics, i.access, i.availability_zone, i.volume_type, i.locality, i.driver_state, v.agent_program, v.manifest, v.image, d.name as datastore_name from instance i \
             join datastore_version v on v.id = coalesce($2, i.version_id) join datastore d on d.id = v.datastore_id \
             where i.id = $1 and i.deleted is null",
        )
        .bind(id.to_string())
        .bind(version.map(|version| version.to_string()))
        .fetch_optional(&self.read)
        .await
        .map_err(failed("read the host of", id))?;
        row.map(|row| host_facts(&row, id)).transpose()
    }

    /// What the driver must remember of the host. `false`: more was written under a greater fence since, or the instance is
    /// deleted.
    pub async fn set_driver_state(
        &self,
        conn: &mut Connection,
        id: InstanceId,
        fence: u64,
        state: &serde_json::Value,
    ) -> Result<bool> {
        let done = query(
            "update instance set driver_state = $2, host_fence = $3 \
             where id = $1 and deleted is null and host_fence <= $3",
        )
        .bind(id.to_string())
        .bind(state.to_string())
        .bind(signed(fence))
        .execute(conn)
        .await
        .map_err(failed("write what the driver remembers of", id))?;
        Ok(done.rows_affected() == 1)
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

    /// The number of its server, which is given once and to no other instance, deleted ones included.
    pub async fn ensure_server_id(&self, conn: &mut Connection, id: InstanceId) -> Result<u32> {
        query(
            "update instance set server_id = (select coalesce(max(o.server_id), 0) + 1 from instance o) \
             where id = $1 and server_id is null",
        )
        .bind(id.to_string())
        .execute(&mut *conn)
        .await
        .map_err(failed("number", id))?;
        let row = query("select server_id from instance where id = $1")
            .bind(id.to_string())
            .fetch_one(conn)
            .await
            .map_err(failed("read the number of", id))?;
        narrow(&row, "server_id")
    }

    /// The account of its engine. `false`: another instance has it, or this one has another or is deleted, or more was
    /// written under a greater fence since.
    pub async fn set_engine_uid(&self, conn: &mut Connection, id: InstanceId, fence: u64, uid: u32) -> Result<bool> {
        // The condition instead of the unique index's error, as for addresses.
        let done = query(
            "update instance set engine_uid = $2, host_fence = $3 where id = $1 and deleted is null \
             and engine_uid is null and host_fence <= $3 and not exists (select 1 from instance o where o.engine_uid = $2 and o.deleted is null)",
        )
        .bind(id.to_string())
        .bind(i64::from(uid))
        .bind(signed(fence))
        .execute(conn)
        .await
        .map_err(failed("set the account of", id))?;
        Ok(done.rows_affected() == 1)
    }

    /// That there is no host: the driver remembers nothing of it, and others may have the account of its engine.
    pub async fn clear_placement(&self, conn: &mut Connection, id: InstanceId, fence: u64) -> Result<()> {
        query(
            "update instance set engine_uid = null, driver_state = null, host_fence = $2 \
             where id = $1 and deleted is null and host_fence <= $2",
        )
        .bind(id.to_string())
        .bind(signed(fence))
        .execute(conn)
        .await
        .map_err(failed("clear the placement of", id))?;
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
}

fn host_facts(row: &Row, id: InstanceId) -> Result<HostFacts> {
    let manifest: Manifest = json(row, "manifest")?;
    Ok(HostFacts {
        instance: id,
        project: ProjectId(column(row, "project_id")?),
        generation: unsigned(row, "generation")?,
        datastore: column(row, "datastore_name")?,
        artifact: artifact(row, manifest.installation)?,
        size: Size {
            memory_mib: unsigned(row, "ram_mib")?,
            vcpus: narrow(row, "vcpus")?,
            volume_gib: unsigned(row, "volume_gib")?,
        },
        address: address(row)?,
        port: narrow(row, "port")?,
        tls_port: manifest.identity.tls_port,
        engine_uid: maybe_uid(row)?,
        requirements: Requirements {
            nics: json(row, "nics")?,
            access: access(row)?,
            availability_zone: column(row, "availability_zone")?,
            volume_type: column(row, "volume_type")?,
            locality: locality(row)?,
        },
        driver_state: maybe_text(row, "driver_state")?
            .map_or(Ok(serde_json::Value::Null), serde_json::from_str)
            .map_err(|error| Error::internal("read the column driver_state", error))?,
    })
}

fn artifact(row: &Row, installation: Installation) -> Result<Artifact> {
    let Some(image) = maybe_text(row, "image")? else {
        let agent_program = column::<Option<String>>(row, "agent_program")?.map(PathBuf::from);
        return Ok(Artifact::Local { installation, agent_program });
    };
    let image = serde_json::from_str(image).map_err(|error| Error::internal("read the column image", error))?;
    Ok(Artifact::Image { installation, image })
}

fn maybe_uid(row: &Row) -> Result<Option<u32>> {
    let uid: Option<i64> = column(row, "engine_uid")?;
    uid.map(|uid| u32::try_from(uid).map_err(|_| damaged("engine_uid", &uid.to_string()))).transpose()
}
