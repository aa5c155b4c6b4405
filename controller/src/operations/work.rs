//! What a step works with.

use std::sync::Arc;

use super::outcome::{StepError, StepResult};
use super::{Changes, Nudge};
use crate::agents::Agents;
use crate::authority::Authorities;
use crate::compute::{Bootstrap, Compute, HostSpec, Network};
use crate::config::Config;
use crate::ids::{InstanceId, VersionId};
use crate::objects::Objects;
use crate::store::Store;
use crate::store::controllers::GRACE;
use crate::store::instances::HostFacts;
use crate::store::operations::lease::Lease;
use crate::store::sql::Transaction;

/// What the runner and the reconcilers work with. Cheap to clone.
#[derive(Clone)]
pub struct RunnerContext {
    /// The only state.
    pub store: Store,
    /// The agents.
    pub agents: Arc<dyn Agents>,
    /// The hosts.
    pub compute: Arc<dyn Compute>,
    /// Sign engines.
    pub authorities: Arc<Authorities>,
    pub config: Arc<Config>,
    /// The backups' objects.
    pub objects: Objects,
    /// Under which name leases are held; the same after a restart, and no other's.
    pub controller_id: String,
    /// Says that there may be work.
    pub nudge: Nudge,
    /// Is told that operations have changed.
    pub changes: Changes,
}

impl RunnerContext {
    /// What is needed to make the host, of another version than the row's where one is given.
    pub(super) async fn facts(&self, instance: InstanceId, version: Option<VersionId>) -> Result<HostFacts, StepError> {
        let facts = self.store.host_facts(instance, version).await?;
        facts.ok_or_else(|| StepError::Fatal("the instance is gone".to_owned()))
    }

    /// Has the driver make a host as the row says, or find it made: with an enrolment token unless its agent is heard. The
    /// row is read after the fence was drawn, so that of two fences the greater one brings what was decided later.
    ///
    /// # Errors
    /// The driver's.
    pub async fn ensure_host(&self, instance: InstanceId, fence: u64) -> StepResult {
        self.ensure_host_of(instance, None, fence).await
    }

    /// The same, of another version than the row's where one is given.
    ///
    /// # Errors
    /// The driver's.
    pub(super) async fn ensure_host_of(
        &self,
        instance: InstanceId,
        version: Option<VersionId>,
        fence: u64,
    ) -> StepResult {
        let facts = self.facts(instance, version).await?;
        let engine_uid = match facts.engine_uid {
            Some(uid) => Some(uid),
            None => self.reserve_account(instance, fence).await?,
        };
        let enrolled = self.agents.state(instance).borrow().connected;
        let token = if enrolled {
            None
        } else {
            let lifetime = self.config.agents.token_lifetime;
            Some(self.store.issue_token(instance, facts.generation, lifetime).await?)
        };
        let spec = HostSpec {
            instance,
            project: facts.project,
            fence,
            size: facts.size,
            requirements: facts.requirements,
            network: Network {
                address: facts.address.ok_or_else(|| StepError::Fatal("the instance has no address".to_owned()))?,
                port: facts.port,
                tls_port: facts.tls_port,
            },
            bootstrap: Bootstrap {
                generation: facts.generation,
                datastore: facts.datastore,
                controllers: self.store.agents_addresses(GRACE).await?,
                authority_pem: self.authorities.agents_pem().to_owned(),
                token,
            },
            artifact: facts.artifact,
            engine_uid,
            driver_state: facts.driver_state,
        };
        let placement = self.compute.ensure_host(&spec).await?;
        if !placement.addresses.contains(&spec.network.address) {
            let text =
                format!("the driver made the host on {:?}, not on {}", placement.addresses, spec.network.address);
            return Err(StepError::Fatal(text));
        }
        if placement.driver_state != spec.driver_state {
            let mut tx = self.store.begin().await?;
            if !self.store.set_driver_state(&mut tx, instance, fence, &placement.driver_state).await? {
                return Err(StepError::Fenced);
            }
            tx.commit().await.map_err(uncommitted)?;
        }
        Ok(())
    }

    /// Has the driver reserve an account for the engine, and stores it before it is used.
    async fn reserve_account(&self, instance: InstanceId, fence: u64) -> Result<Option<u32>, StepError> {
        let taken = self.store.engine_uids().await?;
        let Some(uid) = self.compute.reserve_account(instance, &taken).await? else { return Ok(None) };
        let mut tx = self.store.begin().await?;
        if !self.store.set_engine_uid(&mut tx, instance, fence, uid).await? {
            return Err(StepError::RetrySameKey(format!("the account {uid} was taken by another meanwhile")));
        }
        tx.commit().await.map_err(uncommitted)?;
        Ok(Some(uid))
    }
}

/// One operation under one claim.
pub struct Work {
    /// Store and drivers.
    pub context: RunnerContext,
    pub lease: Lease,
    /// The user who asked.
    pub user_id: String,
}

impl Work {
    /// The claim's fence, as agents and drivers take it.
    pub fn fence(&self) -> u64 {
        self.lease.fence.unsigned_abs()
    }

    /// Begins a transaction that is conditional on the claim.
    ///
    /// # Errors
    /// Fenced: the claim is lost.
    pub async fn begin(&self) -> Result<Transaction, StepError> {
        self.context.store.begin_fenced(self.lease).await?.ok_or(StepError::Fenced)
    }

    /// Ends such a transaction.
    ///
    /// # Errors
    /// The store failed: to be tried again under the same key.
    pub async fn commit(&self, tx: Transaction) -> StepResult {
        tx.commit().await.map_err(uncommitted)
    }
}

fn uncommitted(error: sqlx::Error) -> StepError {
    StepError::RetrySameKey(format!("the store did not commit: {error}"))
}
