//! One step on one target: the instance, the key of its jobs, its deadline, its progress.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use trove_proto::v1;

use super::outcome::{StepError, StepResult};
use super::work::Work;
use crate::agents::{GrantObjects, JobOutcome, NoObjects};
use crate::ids::InstanceId;
use crate::state::{HostState, Service};
use crate::store::instances::HostFacts;

/// How much earlier than its step a job must end, so that the agent's verdict is heard.
const VERDICT: Duration = Duration::from_secs(4);
/// How much earlier than its step a wait ends, so that it can say what it saw.
const WORD: Duration = Duration::from_millis(200);
/// A host whose agent is silent is looked at so often.
const HOST_CHECK: Duration = Duration::from_secs(5);
/// A host that was just booted and was found dead so many times in a row will not connect.
const DEAD_CHECKS: u32 = 4;
/// An agent that has worked before is back within this, also where the reconciler has to start its host first.
const AWAY: Duration = Duration::from_secs(300);
/// Within this the end of an agent is noticed by its connection.
const SILENCE: Duration = Duration::from_secs(20);
/// The least time that a job is given: an agent that was just reached again answers from its journal within this.
const LEAST_JOB_TIME: Duration = Duration::from_secs(5);
/// The most time that a job of a step without deadline is given.
const MOST_JOB_TIME: Duration = Duration::from_secs(3600);

/// A step, or its undo, on one of the operation's targets.
pub struct Target {
    pub instance: InstanceId,
    /// The step's name.
    pub step: String,
    /// Whether the step is being undone.
    pub(super) undo: bool,
    /// Part of the key of its jobs.
    pub(super) attempt: u32,
    /// When it must be done.
    pub(super) deadline: Option<Instant>,
    pub(super) progress: watch::Sender<Option<v1::Progress>>,
}

impl Target {
    /// What is known of the host.
    ///
    /// # Errors
    /// Fatal: the instance is gone.
    pub async fn facts(&self, work: &Work) -> StepResult<HostFacts> {
        work.context.facts(self.instance, None).await
    }

    /// Has the agent, once it is connected, do a job under the key of this step, which takes until the step's deadline at
    /// most. Reports the job's progress as that of the step, and returns what the job came to.
    ///
    /// # Errors
    /// As the agent answered. Fatal: there is nothing that could connect.
    pub async fn run_job(&self, work: &Work, job: v1::start::Work) -> StepResult<JobOutcome> {
        self.run_job_with(work, job, &NoObjects).await
    }

    /// The same for a job that asks for objects of a backup.
    ///
    /// # Errors
    /// As above.
    pub async fn run_job_with(
        &self,
        work: &Work,
        job: v1::start::Work,
        objects: &dyn GrantObjects,
    ) -> StepResult<JobOutcome> {
        self.await_connected(work).await?;
        self.run(work, self.time_left().saturating_sub(VERDICT), job, objects).await
    }

    /// The same with a time of its own, the wait for a connection included.
    ///
    /// # Errors
    /// As the agent answered.
    pub async fn run_job_within(&self, work: &Work, limit: Duration, job: v1::start::Work) -> StepResult<JobOutcome> {
        self.run(work, limit, job, &NoObjects).await
    }

    async fn run(
        &self,
        work: &Work,
        limit: Duration,
        job: v1::start::Work,
        objects: &dyn GrantObjects,
    ) -> StepResult<JobOutcome> {
        let start = v1::Start {
            key: Some(v1::JobKey {
                operation: work.lease.id.to_string(),
                step: if self.undo { format!("{}.undo", self.step) } else { self.step.clone() },
                target: self.instance.to_string(),
                attempt: self.attempt,
            }),
            fence: work.fence(),
            deadline_s: u32::try_from(limit.max(LEAST_JOB_TIME).as_secs()).unwrap_or(u32::MAX),
            work: Some(job),
        };
        let progress = |progress| {
            self.progress.send_replace(Some(progress));
        };
        Ok(work.context.agents.run(self.instance, start, &progress, objects).await?)
    }

    fn time_left(&self) -> Duration {
        self.deadline.map_or(MOST_JOB_TIME, |deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Has the driver stop the host, and waits until its agent is heard no more: what it said is of its earlier life, and
    /// the engine is stopped until it says otherwise.
    ///
    /// # Errors
    /// The driver's.
    pub async fn stop_host(&self, work: &Work) -> StepResult {
        let context = &work.context;
        context.compute.stop_host(self.instance, work.fence()).await?;
        let mut state = context.agents.state(self.instance);
        match timeout(SILENCE, state.wait_for(|state| !state.connected)).await {
            Ok(Ok(_)) => {}
            _ => return Err(StepError::RetrySameKey("the host was stopped, and its agent is still heard".to_owned())),
        }
        let mut tx = work.begin().await?;
        context.store.reset_service(&mut tx, self.instance, Service::Shutdown).await?;
        work.commit(tx).await
    }

    /// Shows what the step waits for.
    fn waits_for(&self, what: String) {
        self.progress.send_if_modified(|said| {
            let changed = said.as_ref().is_none_or(|said| said.stage != what);
            *said = Some(v1::Progress { stage: what, ..v1::Progress::default() });
            changed
        });
    }

    /// Waits until the agent of a host that was just booted has connected.
    ///
    /// # Errors
    /// Fatal: the host has ended, or cannot be described, or the step's time is over.
    pub async fn await_booted(&self, work: &Work) -> StepResult {
        self.connected(work, DEAD_CHECKS, self.time_left()).await
    }

    /// Waits until the agent is connected, for 300 s at most: other changes may wait behind this one. A stopped host is waited
    /// for, since the reconciler starts it.
    ///
    /// # Errors
    /// Fatal: the host is gone, or cannot be described, or the time is over.
    pub async fn await_connected(&self, work: &Work) -> StepResult {
        self.connected(work, u32::MAX, self.time_left().min(AWAY)).await
    }

    async fn connected(&self, work: &Work, dead_checks: u32, limit: Duration) -> StepResult {
        let deadline = Instant::now() + limit;
        let time_left = || deadline.saturating_duration_since(Instant::now());
        let mut state = work.context.agents.state(self.instance);
        // The first look comes at once: a host that is gone is not waited for.
        let (mut dead, mut pause) = (0, Duration::ZERO);
        loop {
            let limit = pause.min(time_left().saturating_sub(WORD));
            pause = HOST_CHECK;
            if let Ok(connected) = timeout(limit, state.wait_for(|state| state.connected)).await {
                return connected
                    .map(|_| ())
                    .map_err(|_| StepError::RetrySameKey("the agent was forgotten".to_owned()));
            }
            // Silence: is there anything that could still connect? The driver starts a dead agent again, which one look
            // may fall between.
            let (times, seen) = match work.context.compute.describe(self.instance).await? {
                HostState::Absent => return Err(StepError::Fatal("the host is gone".to_owned())),
                HostState::Dead => (dead + 1, "has ended and is started again"),
                HostState::Active | HostState::Building => (0, "runs and has not connected"),
            };
            dead = times;
            if dead >= dead_checks {
                return Err(StepError::Fatal("the agent ends as soon as it is started".to_owned()));
            }
            if time_left() <= WORD {
                return Err(StepError::Fatal(format!("it was not done in time: the agent {seen}")));
            }
            self.waits_for(format!("waits for the agent, which {seen}"));
        }
    }

    /// Waits until the engine answers. `after_crash` is how long it has after it first crashed; its agent starts it again.
    ///
    /// # Errors
    /// Fatal: the agent has given it up, or its or the step's time is over; what the agent last said is in it.
    pub async fn await_engine(&self, work: &Work, after_crash: Option<Duration>) -> StepResult {
        let mut state = work.context.agents.state(self.instance);
        let mut crashing = state.clone();
        let gives_up = async {
            let Some(limit) = after_crash else { return std::future::pending().await };
            let crashed = crashing.wait_for(|state| state.service == Service::Crashed).await.map(|state| state.clone());
            sleep(limit).await;
            crashed
        };
        let decides = async {
            let decided = state.wait_for(|state| {
                let is_decided = state.connected && matches!(state.service, Service::Healthy | Service::Failed);
                if state.connected && !is_decided && !state.detail.is_empty() {
                    self.waits_for(format!("waits for the engine, which is {}: {}", state.service.tag(), state.detail));
                }
                is_decided
            });
            decided.await.map(|state| state.clone())
        };
        let decided = tokio::select! {
            decided = decides => decided,
            crashed = gives_up => crashed,
            () = sleep(self.time_left().saturating_sub(WORD)) => {
                Ok(work.context.agents.state(self.instance).borrow().clone())
            }
        };
        let decided = decided.map_err(|_| StepError::RetrySameKey("the agent was forgotten".to_owned()))?;
        let detail = if decided.detail.is_empty() { String::new() } else { format!(": {}", decided.detail) };
        match decided.service {
            _ if !decided.connected => Err(StepError::Fatal("the agent cannot be reached".to_owned())),
            Service::Healthy => Ok(()),
            service => Err(StepError::Fatal(format!("the engine does not answer, it is {}{detail}", service.tag()))),
        }
    }
}
