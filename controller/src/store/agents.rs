//! Rows of agents: last reports, connections to controllers ("links"), and enrolment tokens.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::state::Service;
use crate::store::sql::{Connection, query};
use crate::store::{Store, micros};

/// The stored part of an agent's last report.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentRow {
    /// State of the engine.
    pub service: Service,
    /// Reason, if the engine is not healthy.
    pub detail: String,
    /// Version of the engine.
    pub engine_version: String,
    /// Bytes in use on the volume.
    pub volume_used_bytes: u64,
    /// Generation of the assignment in force.
    pub assignment_generation: u64,
}

/// Identifies a report, so that an older one does not overwrite a newer one. Every controller gets all reports, and one
/// that was suspended may store an old one late.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportSequence {
    /// Random id of the agent's start.
    pub boot_id: String,
    /// Number of the report since that start.
    pub sequence: u64,
}

/// Result of the redemption of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redeemed {
    /// The token is valid. Its bearer is the agent of this instance and generation.
    Granted {
        instance: InstanceId,
        /// Generation of the host.
        generation: u64,
    },
    Unknown,
    Expired {
        instance: InstanceId,
    },
    /// It was redeemed for another public key.
    Used {
        instance: InstanceId,
    },
    /// Its instance is deleted or has a newer host.
    Outdated {
        instance: InstanceId,
    },
}

/// Instances whose service was reset (`reset_status`) and whose next report must be stored in any case. The hub stores
/// a report only if it differs from the last one that it stored, and it does not know about the reset otherwise. Memory
/// is enough for this, since each agent is connected to each controller, hence also to the one that does the reset.
#[derive(Clone, Default)]
pub(crate) struct ResetServices(Arc<Mutex<HashSet<InstanceId>>>);

impl ResetServices {
    fn put(&self, instance: InstanceId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(instance);
    }

    /// Whether the service was reset since the last call.
    pub(crate) fn take(&self, instance: InstanceId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&instance)
    }
}

impl Store {
    /// Makes an enrolment token for the agent of an instance. Earlier tokens stay valid until they expire, since the
    /// guest may have got one of them already. Only the hash is stored.
    pub async fn issue_token(&self, instance: InstanceId, generation: u64, lifetime: Duration) -> Result<SecretString> {
        let bytes: [u8; 32] = rand::random();
        let token = SecretString::from(URL_SAFE_NO_PAD.encode(bytes));
        let now = self.now();
        let failed = |error| Error::internal(format!("store an enrolment token of instance {instance}"), error);
        let mut transaction = self.begin().await?;
        query("delete from enrolment_token where expires_at < $1")
            // Keep expired tokens for a day, so that a late agent gets "expired" instead of "unknown".
            .bind(micros(now - Duration::from_secs(24 * 3600)))
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        query(
            "insert into enrolment_token (hash, instance_id, generation, expires_at)
             select $1, $2, $3, $4 where exists (select 1 from instance where id = $2 and deleted is null)",
        )
        .bind(token_hash(&token))
        .bind(instance.to_string())
        .bind(count(generation))
        .bind(micros(now + lifetime))
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(token)
    }

    /// Redeems a token for the public key with the hash `key_hash`. This may be repeated with the same key.
    pub async fn redeem_token(&self, token: &SecretString, key_hash: &str) -> Result<Redeemed> {
        let failed = |error| Error::internal("redeem an enrolment token", error);
        let mut transaction = self.begin().await?;
        let hash = token_hash(token);
        let row = query(
            "select token.instance_id, token.generation, token.expires_at, token.used_key_hash,
                    instance.id is not null as current
             from enrolment_token token
             left join instance on instance.id = token.instance_id
                  and instance.generation <= token.generation and instance.deleted is null
             where token.hash = $1",
        )
        .bind(&hash)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(failed)?;
        let Some(row) = row else { return Ok(Redeemed::Unknown) };
        let instance: InstanceId = row
            .try_get::<String, _>("instance_id")
            .map_err(failed)?
            .parse()
            .map_err(|error| Error::internal("read the instance of an enrolment token", error))?;
        let generation = row.try_get::<i64, _>("generation").map_err(failed)?.unsigned_abs();
        let used: Option<String> = row.try_get("used_key_hash").map_err(failed)?;
        if row.try_get::<i64, _>("expires_at").map_err(failed)? < self.now_micros() {
            return Ok(Redeemed::Expired { instance });
        }
        if used.is_some_and(|used| used != key_hash) {
            return Ok(Redeemed::Used { instance });
        }
        if !row.try_get::<bool, _>("current").map_err(failed)? {
            return Ok(Redeemed::Outdated { instance });
        }
        query("update enrolment_token set used_key_hash = $2 where hash = $1")
            .bind(&hash)
            .bind(key_hash)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(Redeemed::Granted { instance, generation })
    }

    /// Whether this generation of the host is the present one of the instance.
    pub async fn is_current_agent(&self, instance: InstanceId, generation: u64) -> Result<bool> {
        query("select 1 from instance where id = $1 and generation <= $2 and deleted is null")
            .bind(instance.to_string())
            .bind(count(generation))
            .fetch_optional(&self.read)
            .await
            .map(|row| row.is_some())
            .map_err(|error| Error::internal(format!("read the host generation of instance {instance}"), error))
    }

    /// The last stored report of the agent.
    pub async fn get_agent(&self, instance: InstanceId) -> Result<Option<AgentRow>> {
        let failed = |error| Error::internal(format!("read the agent of instance {instance}"), error);
        let row = query(
            "select service, service_detail, engine_version, volume_used_bytes, assignment_generation
             from agent where instance_id = $1",
        )
        .bind(instance.to_string())
        .fetch_optional(&self.read)
        .await
        .map_err(failed)?;
        let Some(row) = row else { return Ok(None) };
        let tag: String = row.try_get("service").map_err(failed)?;
        Ok(Some(AgentRow {
            service: Service::from_tag(&tag).unwrap_or(Service::Unknown),
            detail: row.try_get("service_detail").map_err(failed)?,
            engine_version: row.try_get("engine_version").map_err(failed)?,
            volume_used_bytes: row.try_get::<i64, _>("volume_used_bytes").map_err(failed)?.unsigned_abs(),
            assignment_generation: row.try_get::<i64, _>("assignment_generation").map_err(failed)?.unsigned_abs(),
        }))
    }

    /// Stores a report. `false` if the instance is deleted, or a newer report of the same start is stored already.
    pub async fn put_agent(&self, instance: InstanceId, agent: &AgentRow, word: &ReportSequence) -> Result<bool> {
        query(
            "insert into agent (instance_id, service, service_detail, service_updated, engine_version,
                                volume_used_bytes, assignment_generation, boot_id, sequence)
             select $1, $2, $3, $4, $5, $6, $7, $8, $9
             where exists (select 1 from instance where id = $1 and deleted is null)
             on conflict (instance_id) do update set
                 service_updated = case when agent.service = excluded.service then agent.service_updated
                                        else excluded.service_updated end,
                 service = excluded.service, service_detail = excluded.service_detail,
                 engine_version = excluded.engine_version, volume_used_bytes = excluded.volume_used_bytes,
                 assignment_generation = excluded.assignment_generation,
                 boot_id = excluded.boot_id, sequence = excluded.sequence
             where agent.boot_id <> excluded.boot_id or agent.sequence <= excluded.sequence",
        )
        .bind(instance.to_string())
        .bind(agent.service.tag())
        .bind(&agent.detail)
        .bind(self.now_micros())
        .bind(&agent.engine_version)
        .bind(count(agent.volume_used_bytes))
        .bind(count(agent.assignment_generation))
        .bind(&word.boot_id)
        .bind(count(word.sequence))
        .execute(&self.write)
        .await
        .map(|result| result.rows_affected() > 0)
        .map_err(|error| Error::internal(format!("store the agent of instance {instance}"), error))
    }

    /// Sets the service until the agent's next heartbeat.
    pub async fn reset_service(&self, conn: &mut Connection, instance: InstanceId, service: Service) -> Result<()> {
        query(
            "update agent set service = $2, service_detail = '', service_updated = $3
             where instance_id = $1",
        )
        .bind(instance.to_string())
        .bind(service.tag())
        .bind(self.now_micros())
        .execute(conn)
        .await
        .map_err(|error| Error::internal(format!("reset the service of instance {instance}"), error))?;
        // Before the commit: a report that the hub stores now waits for this transaction, so it overwrites the reset.
        self.reset_services.put(instance);
        Ok(())
    }

    /// Stores that the agent is connected to a controller, unless the instance is deleted.
    pub async fn put_link(&self, instance: InstanceId, controller_id: &str) -> Result<()> {
        query(
            "insert into agent_link (instance_id, controller_id, connected_at, lost_at)
             select $1, $2, $3, null
             where exists (select 1 from instance where id = $1 and deleted is null)
             on conflict (instance_id, controller_id) do update
                 set connected_at = excluded.connected_at, lost_at = null",
        )
        .bind(instance.to_string())
        .bind(controller_id)
        .bind(self.now_micros())
        .execute(&self.write)
        .await
        .map_err(|error| Error::internal(format!("store the link to the agent of instance {instance}"), error))?;
        Ok(())
    }

    /// Stores that the agent is no longer connected to a controller.
    pub async fn lose_link(&self, instance: InstanceId, controller_id: &str) -> Result<()> {
        query(
            "update agent_link set lost_at = $3
             where instance_id = $1 and controller_id = $2 and lost_at is null",
        )
        .bind(instance.to_string())
        .bind(controller_id)
        .bind(self.now_micros())
        .execute(&self.write)
        .await
        .map_err(|error| Error::internal(format!("store the loss of the agent of instance {instance}"), error))?;
        Ok(())
    }

    /// Closes all links of a controller at its start, since they may be left from a crash. Returns their number.
    pub async fn lose_own_links(&self, controller_id: &str) -> Result<u64> {
        query("update agent_link set lost_at = $2 where controller_id = $1 and lost_at is null")
            .bind(controller_id)
            .bind(self.now_micros())
            .execute(&self.write)
            .await
            .map(|result| result.rows_affected())
            .map_err(|error| Error::internal("close the links of this controller's earlier life", error))
    }

    /// Deletes the agent's report, links and tokens.
    pub async fn delete_agent(&self, conn: &mut Connection, instance: InstanceId) -> Result<()> {
        for statement in [
            "delete from agent where instance_id = $1",
            "delete from agent_link where instance_id = $1",
            "delete from enrolment_token where instance_id = $1",
        ] {
            query(statement)
                .bind(instance.to_string())
                .execute(&mut *conn)
                .await
                .map_err(|error| Error::internal(format!("delete the agent of instance {instance}"), error))?;
        }
        Ok(())
    }
}

/// Hash by which a token is stored. Tokens are random, so they need no salt and no slow hash.
fn token_hash(token: &SecretString) -> String {
    STANDARD.encode(Sha256::digest(token.expose_secret().as_bytes()))
}

/// Converts a number for a column of type bigint.
fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
