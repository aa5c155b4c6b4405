//! What a step works with.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use trove_proto::v1;

use super::outcome::{StepError, StepResult};
use super::{Changes, Nudge};
use crate::agents::Agents;
use crate::authority::Authorities;
use crate::compute::{Compute, HostSpec};
use crate::config::Config;
use crate::ids::InstanceId;
use crate::state::{HostState, Service};
use crate::store::Store;
use crate::store::controllers::GRACE;
use crate::store::instances::HostFacts;
use crate::store::operations::lease::Lease;
use crate::store::sql::Transaction;

/// How much earlier than its step a job must end, so that the agent's verdict is heard.
const VERDICT: Duration = Duration::from_secs(4);
/// How much earlier than its step a wait ends, so that it can say what it saw.
const WORD: Duration = Duration::from_millis(200);
/// A host whose agent is silent is looked at so often.
const HOST_CHECK: Duration = Duration::from_secs(5);
/// A host that was found dead so many times in a row will not connect.
const DEAD_CHECKS: u32 = 3;
/// Within this the end of an agent is noticed by its connection.
const SILENCE: Duration = Duration::from_secs(20);
/// The least time that a job is given: an agent that was just reached again answers from its journal within this.
const LEAST_JOB_TIME: Duration = Duration::from_secs(5);
/// The most time that a job of a step without deadline is given.
const MOST_JOB_TIME: Duration = Duration::from_secs(3600);

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
    /// The effective configuration.
    pub config: Arc<Config>,
    /// Under which name leases are held; the same after a restart, and no other's.
    pub controller_id: String,
    /// Says that there may be work.
    pub nudge: Nudge,
    /// Is told that operations have changed.
    pub changes: Changes,
}

impl RunnerContext {
    async fn facts(&self, instance: InstanceId) -> Result<HostFacts, StepError> {
        let facts = self.store.host_facts(instance).await?;
        facts.ok_or_else(|| StepError::Fatal("the instance is gone".to_owned()))
    }

    /// Has the driver make a host as the row says, or find it made: with an enrolment token unless its agent is heard.
    ///
    /// # Errors
    /// The driver's.
    pub async fn ensure_host(&self, instance: InstanceId) -> StepResult {
        let facts = self.facts(instance).await?;
        let engine_uid = match facts.engine_uid {
            Some(uid) => Some(uid),
            None => self.reserve_account(instance).await?,
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
            generation: facts.generation,
            datastore: facts.datastore,
            agent_program: facts.agent_program,
            installation: facts.installation,
            size: facts.size,
            address: facts.address.ok_or_else(|| StepError::Fatal("the instance has no address".to_owned()))?,
            port: facts.port,
            engine_uid,
            controllers: self.store.agents_addresses(GRACE).await?,
            authority_pem: self.authorities.agents_pem().to_owned(),
            token,
        };
        Ok(self.compute.ensure_host(&spec).await?)
    }

    /// Has the driver reserve an account for the engine, and stores it before it is used.
    async fn reserve_account(&self, instance: InstanceId) -> Result<Option<u32>, StepError> {
        let taken = self.store.engine_uids().await?;
        let Some(uid) = self.compute.reserve_account(instance, &taken).await? else { return Ok(None) };
        let mut tx = self.store.begin().await?;
        if !self.store.set_engine_uid(&mut tx, instance, uid).await? {
            return Err(StepError::Unknown(format!("the account {uid} was taken by another meanwhile")));
        }
        tx.commit().await.map_err(|error| StepError::Unknown(format!("the store did not commit: {error}")))?;
        Ok(Some(uid))
    }
}

/// One step of one operation under one claim.
pub struct Work {
    /// Store and drivers.
    pub context: RunnerContext,
    /// The claim.
    pub lease: Lease,
    /// The instance.
    pub instance: InstanceId,
    /// The user who asked.
    pub user_id: String,
    /// The step's name.
    pub step: String,
    /// Part of the key of its jobs.
    pub attempt: u32,
    /// When it must be done.
    pub deadline: Option<Instant>,
    pub(super) progress: Arc<watch::Sender<Option<v1::Progress>>>,
}

impl Work {
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
    /// Unknown: the store failed.
    pub async fn commit(&self, tx: Transaction) -> StepResult {
        tx.commit().await.map_err(|error| StepError::Unknown(format!("the store did not commit: {error}")))
    }

    /// What is known of the host.
    ///
    /// # Errors
    /// Fatal: the instance is gone.
    pub async fn facts(&self) -> Result<HostFacts, StepError> {
        self.context.facts(self.instance).await
    }

    /// Has the agent do a job under the key of this step, which takes until the step's deadline at most. Reports the
    /// job's progress as that of the step.
    ///
    /// # Errors
    /// As the agent answered.
    pub async fn run_job(&self, work: v1::start::Work) -> StepResult {
        let left = self.deadline.map_or(MOST_JOB_TIME, |deadline| deadline.saturating_duration_since(Instant::now()));
        self.run_job_within(left.saturating_sub(VERDICT), work).await
    }

    /// The same with a time of its own.
    ///
    /// # Errors
    /// As the agent answered.
    pub async fn run_job_within(&self, limit: Duration, work: v1::start::Work) -> StepResult {
        let start = v1::Start {
            key: Some(v1::JobKey {
                operation: self.lease.id.to_string(),
                step: self.step.clone(),
                target: self.instance.to_string(),
                attempt: self.attempt,
            }),
            fence: self.lease.fence.unsigned_abs(),
            deadline_s: u32::try_from(limit.max(LEAST_JOB_TIME).as_secs()).unwrap_or(u32::MAX),
            work: Some(work),
        };
        let progress = |progress| {
            self.progress.send_replace(Some(progress));
        };
        self.context.agents.run(self.instance, start, &progress).await?;
        Ok(())
    }

    /// See [`RunnerContext::ensure_host`].
    ///
    /// # Errors
    /// The driver's.
    pub async fn boot_host(&self) -> StepResult {
        self.context.ensure_host(self.instance).await
    }

    /// Has the driver stop the host, and waits until its agent is heard no more: what it said is of its earlier life, and
    /// the engine is stopped until it says otherwise.
    ///
    /// # Errors
    /// The driver's.
    pub async fn stop_host(&self) -> StepResult {
        self.context.compute.stop_host(self.instance).await?;
        let mut state = self.context.agents.state(self.instance);
        match timeout(SILENCE, state.wait_for(|state| !state.connected)).await {
            Ok(Ok(_)) => {}
            _ => return Err(StepError::Unknown("the host was stopped, and its agent is still heard".to_owned())),
        }
        let mut tx = self.begin().await?;
        self.context.store.reset_service(&mut tx, self.instance, Service::Shutdown).await?;
        self.commit(tx).await
    }

    /// Waits until the agent has connected.
    ///
    /// # Errors
    /// Fatal: the host has ended, or cannot be described.
    pub async fn await_connected(&self) -> StepResult {
        let mut state = self.context.agents.state(self.instance);
        let mut dead = 0;
        loop {
            if let Ok(connected) = timeout(HOST_CHECK, state.wait_for(|state| state.connected)).await {
                return connected.map(|_| ()).map_err(|_| StepError::Unknown("the agent was forgotten".to_owned()));
            }
            // Silence: is there anything that could still connect? The driver starts a dead agent again, which one look
            // may fall between.
            dead = match self.context.compute.describe(self.instance).await? {
                HostState::Absent => return Err(StepError::Fatal("the host is gone".to_owned())),
                HostState::Dead => dead + 1,
                HostState::Active | HostState::Building => 0,
            };
            if dead >= DEAD_CHECKS {
                return Err(StepError::Fatal("the agent ends as soon as it is started".to_owned()));
            }
        }
    }

    /// Waits until the engine answers.
    ///
    /// # Errors
    /// Fatal: the agent has given it up, or the step's time is over; what the agent last said is in it.
    pub async fn await_engine(&self) -> StepResult {
        let mut state = self.context.agents.state(self.instance);
        let decided =
            state.wait_for(|state| state.connected && matches!(state.service, Service::Healthy | Service::Failed));
        let time = self.deadline.map_or(MOST_JOB_TIME, |deadline| deadline.saturating_duration_since(Instant::now()));
        let decided = match timeout(time.saturating_sub(WORD), decided).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) => return Err(StepError::Unknown("the agent was forgotten".to_owned())),
            Err(_) => self.context.agents.state(self.instance).borrow().clone(),
        };
        let detail = if decided.detail.is_empty() { String::new() } else { format!(": {}", decided.detail) };
        match decided.service {
            _ if !decided.connected => Err(StepError::Fatal("the agent cannot be reached".to_owned())),
            Service::Healthy => Ok(()),
            service => Err(StepError::Fatal(format!("the engine does not answer, it is {}{detail}", service.tag()))),
        }
    }
}
