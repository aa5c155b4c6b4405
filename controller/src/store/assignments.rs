//! Rows of assignments: the specification, and the engine's certificate with its encrypted key. The agent has a copy;
//! the row is compared with it to find out whether the agent needs a new one.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use trove_proto::v1;

use super::{Store, from_micros, micros};
use crate::config::{Config, TlsMode};
use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::model::EngineCertificate;
use crate::store::sql::{Connection, Row, query};

/// The part of an assignment that is not secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Specification {
    /// Addresses on which the controllers listen for agents.
    pub controllers: Vec<String>,
    /// Seconds between two heartbeats.
    pub heartbeat_interval_s: u32,
    /// Seconds between two probes of the engine.
    pub probe_interval_s: u32,
    /// Whether the engine requires TLS. Rows of older versions lack it, which means `basic`.
    #[serde(default)]
    pub tls: TlsMode,
    /// Values of parameters, each a JSON scalar as text.
    pub parameters: BTreeMap<String, String>,
    /// Size of the volume, GiB; 0 in rows of older versions.
    #[serde(default)]
    pub volume_gib: u64,
    /// The number that no other instance has had; 0 in what was stored before there were any.
    #[serde(default)]
    pub server_id: u32,
    /// How often the log of writes is shipped; `None`: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogShipping>,
}

/// How often what was written is stored, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogShipping {
    /// Where much is written.
    pub interval_s: u32,
    /// Where little is.
    pub idle_interval_s: u32,
}

impl Specification {
    /// The specification that follows from the configuration, of an instance that ships its log. Parameters, the size of the volume and the number of the server
    /// are left out.
    pub fn of(config: &Config, controllers: Vec<String>) -> Self {
        // The protocol has whole seconds, at least one.
        let seconds = |time: std::time::Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1);
        Self {
            controllers,
            heartbeat_interval_s: seconds(config.agents.heartbeat_interval),
            probe_interval_s: seconds(config.agents.probe_interval),
            tls: config.datastores.tls,
            parameters: BTreeMap::new(),
            volume_gib: 0,
            server_id: 0,
            log: Some(LogShipping {
                interval_s: seconds(config.backups.log_interval),
                idle_interval_s: seconds(config.backups.log_idle_interval),
            }),
        }
    }
}

/// An assignment: what the agent of an instance must apply.
#[derive(Clone, Debug)]
pub struct Assignment {
    pub instance: InstanceId,
    /// Grows with each change.
    pub generation: u64,
    pub specification: Specification,
    /// The engine's certificate, PEM.
    pub certificate_pem: String,
    /// The engine's key, PEM.
    pub key_pem: SecretString,
    /// Certificate of the engines' authority, PEM.
    pub authority_pem: String,
    /// When the certificate expires.
    pub not_after: OffsetDateTime,
}

impl Assignment {
    /// The message for the agent.
    pub fn to_proto(&self) -> v1::Specification {
        let specification = self.specification.clone();
        v1::Specification {
            controllers: specification.controllers,
            role: v1::Role::Primary.into(),
            tls_mode: match specification.tls {
                TlsMode::Basic => v1::TlsMode::Basic,
                TlsMode::Enforced => v1::TlsMode::Enforced,
            }
            .into(),
            certificate: Some(v1::EngineCertificate {
                certificate_pem: self.certificate_pem.clone(),
                key_pem: self.key_pem.expose_secret().to_owned(),
                authority_pem: self.authority_pem.clone(),
            }),
            parameters: specification.parameters.into_iter().collect(),
            heartbeat_interval_s: specification.heartbeat_interval_s,
            probe_interval_s: specification.probe_interval_s,
            volume_gib: specification.volume_gib,
            server_id: specification.server_id,
            log: specification
                .log
                .map(|LogShipping { interval_s, idle_interval_s }| v1::LogShipping { interval_s, idle_interval_s }),
        }
    }
}

/// An assignment without its secrets, and what is in force.
#[derive(Clone, Debug)]
pub struct AssignmentStatus {
    pub instance: InstanceId,
    /// Stored generation.
    pub generation: u64,
    /// Generation in force, as the agent last reported it.
    pub in_force: u64,
    pub specification: Specification,
    /// When the certificate expires.
    pub not_after: OffsetDateTime,
    /// Size of the instance's volume, GiB.
    pub volume_gib: u64,
    /// The number that no other instance has had.
    pub server_id: u32,
    /// Whether its log is to be shipped.
    pub ships_log: bool,
}

impl Store {
    /// Stores the first assignment of an instance, with generation 1. Does nothing if there is one.
    pub async fn insert_assignment(
        &self,
        conn: &mut Connection,
        instance: InstanceId,
        specification: &Specification,
        certificate: &EngineCertificate,
    ) -> Result<()> {
        query(
            "insert into assignment \
             (instance_id, generation, specification, certificate_pem, key_sealed, authority_pem, not_after) \
             values ($1, 1, $2, $3, $4, $5, $6) on conflict (instance_id) do nothing",
        )
        .bind(instance.to_string())
        .bind(json(specification)?)
        .bind(&certificate.certificate_pem)
        .bind(self.seal.seal(&purpose(instance), &certificate.key_pem)?)
        .bind(&certificate.authority_pem)
        .bind(micros(certificate.not_after))
        .execute(conn)
        .await
        .map_err(failed("store", instance))?;
        Ok(())
    }

    /// Changes an assignment; its certificate stays unless a new one is given. `false` if its generation is no longer
    /// `generation`.
    pub async fn replace_assignment(
        &self,
        conn: &mut Connection,
        instance: InstanceId,
        generation: u64,
        specification: &Specification,
        certificate: Option<&EngineCertificate>,
    ) -> Result<bool> {
        let key =
            certificate.map(|certificate| self.seal.seal(&purpose(instance), &certificate.key_pem)).transpose()?;
        let done = query(
            "update assignment set generation = generation + 1, specification = $3, \
             certificate_pem = coalesce($4, certificate_pem), key_sealed = coalesce($5, key_sealed), \
             authority_pem = coalesce($6, authority_pem), not_after = coalesce($7, not_after) \
             where instance_id = $1 and generation = $2",
        )
        .bind(instance.to_string())
        .bind(i64::try_from(generation).unwrap_or(i64::MAX))
        .bind(json(specification)?)
        .bind(certificate.map(|certificate| certificate.certificate_pem.as_str()))
        .bind(key)
        .bind(certificate.map(|certificate| certificate.authority_pem.as_str()))
        .bind(certificate.map(|certificate| micros(certificate.not_after)))
        .execute(conn)
        .await
        .map_err(failed("change", instance))?;
        Ok(done.rows_affected() == 1)
    }

    /// # Errors
    /// Internal: also if its key was encrypted with another key.
    pub async fn get_assignment(&self, instance: InstanceId) -> Result<Option<Assignment>> {
        let row = query(
            "select generation, specification, certificate_pem, key_sealed, authority_pem, not_after \
             from assignment where instance_id = $1",
        )
        .bind(instance.to_string())
        .fetch_optional(&self.read)
        .await
        .map_err(failed("read", instance))?;
        let Some(row) = row else { return Ok(None) };
        let text = |column: &'static str| row.try_get::<String, _>(column).map_err(failed("read", instance));
        Ok(Some(Assignment {
            instance,
            generation: unsigned(&row, "generation")?,
            specification: specification(&row)?,
            certificate_pem: text("certificate_pem")?,
            key_pem: self.seal.open(&purpose(instance), &text("key_sealed")?)?,
            authority_pem: text("authority_pem")?,
            not_after: from_micros(row.try_get("not_after").map_err(failed("read", instance))?),
        }))
    }

    /// Assignments of instances whose agent has reported and on which no operation is active. These are installed,
    /// since a failed create deletes its assignment. So an agent that has none in force has lost it, or has not
    /// reported it yet.
    pub async fn list_settled_assignments(&self) -> Result<Vec<AssignmentStatus>> {
        let read = |error| Error::internal("list the assignments", error);
        let rows = query(
            "select s.instance_id, s.generation, s.specification, s.not_after, a.assignment_generation, i.volume_gib, coalesce(i.server_id, 0) as server_id, l.keep_seconds \
             from assignment s join agent a on a.instance_id = s.instance_id \
             join instance i on i.id = s.instance_id and i.deleted is null \
             left join log_shipping l on l.instance_id = s.instance_id \
             where not exists (select 1 from operation_target t where t.resource = s.instance_id and t.active)",
        )
        .fetch_all(&self.read)
        .await
        .map_err(read)?;
        let status = |row: &Row| -> Result<AssignmentStatus> {
            let instance: String = row.try_get("instance_id").map_err(read)?;
            Ok(AssignmentStatus {
                instance: instance.parse().map_err(|error| Error::internal("read an assignment's instance", error))?,
                generation: unsigned(row, "generation")?,
                in_force: unsigned(row, "assignment_generation")?,
                specification: specification(row)?,
                not_after: from_micros(row.try_get("not_after").map_err(read)?),
                volume_gib: unsigned(row, "volume_gib")?,
                server_id: u32::try_from(unsigned(row, "server_id")?)
                    .map_err(|error| Error::internal("read the server_id", error))?,
                ships_log: row.try_get::<Option<i64>, _>("keep_seconds").map_err(read)?.is_some(),
            })
        };
        rows.iter().map(status).collect()
    }

    pub async fn delete_assignment(&self, conn: &mut Connection, instance: InstanceId) -> Result<()> {
        query("delete from assignment where instance_id = $1")
            .bind(instance.to_string())
            .execute(conn)
            .await
            .map_err(failed("remove", instance))?;
        Ok(())
    }
}

fn failed(verb: &'static str, instance: InstanceId) -> impl FnOnce(sqlx::Error) -> Error {
    move |error| Error::internal(format!("{verb} the assignment of instance {instance}"), error)
}

/// The purpose with which a key is encrypted, see [`crate::seal::Seal`].
fn purpose(instance: InstanceId) -> String {
    format!("engine key of instance {instance}")
}

fn json(specification: &Specification) -> Result<String> {
    serde_json::to_string(specification).map_err(|error| Error::internal("write a specification", error))
}

fn specification(row: &Row) -> Result<Specification> {
    let read = |error| Error::internal("read a specification", error);
    let text: String = row.try_get("specification").map_err(read)?;
    serde_json::from_str(&text).map_err(|error| Error::internal("read a specification", error))
}

fn unsigned(row: &Row, column: &'static str) -> Result<u64> {
    let value: i64 = row.try_get(column).map_err(|error| Error::internal(format!("read the {column}"), error))?;
    u64::try_from(value).map_err(|error| Error::internal(format!("read the {column} {value}"), error))
}
