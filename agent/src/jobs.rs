//! Jobs. A job is started once per key; a second call with the key attaches to it or gets its recorded result. A job
//! waits for earlier jobs of lanes that exclude its own ([`crate::lanes`]); a job with a newer fence cancels them.

mod answers;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span};
use trove_proto::v1;
use trove_strategy::{EngineError, Kind};

use crate::assignment::AssignmentStore;
use crate::journal::{self, Entry, Journal, fingerprint};
use crate::lanes::Lane;
use crate::status::wire_error;
use crate::supervisor::pass;
pub use answers::Answers;

/// State of a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobState {
    /// Progress; has no stage before the job has begun.
    pub progress: v1::Progress,
    /// What the job asks for and nobody has answered yet.
    pub question: Option<v1::NeedGrants>,
    /// The result, once it has ended.
    pub ended: Option<v1::Result>,
}

struct Running {
    operation: String,
    lane: Lane,
    fence: u64,
    name: String,
    fingerprint: String,
    state: watch::Receiver<JobState>,
    answers: Answers,
    cancel: CancellationToken,
}

pub use v1::result::Outcome;

/// Carries out the work of jobs. The agent's is [`crate::work::EngineWork`]; the simulator has its own.
#[async_trait]
pub trait Worker: Send + Sync {
    /// Does the work, stage by stage. The error is sent to the controller as it is.
    async fn work(&self, job: &Job, work: v1::start::Work) -> Result<Outcome, v1::Error>;

    /// The lane of a work.
    fn lane(&self, work: &v1::start::Work) -> Lane {
        Lane::of(work)
    }
}

/// Queue to which the services submit jobs. The agent's is [`Jobs`]; the simulator wraps it to observe the calls.
pub trait JobQueue: Send + Sync {
    /// Starts a job, attaches to it if it runs, or returns its recorded result.
    fn start(&self, start: v1::Start) -> Attached;

    /// Cancels the jobs of an operation, which is over.
    fn cancel(&self, operation: &str);
}

/// All jobs of the agent. Cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    worker: Arc<dyn Worker>,
    assignments: Arc<AssignmentStore>,
    journal: Journal,
    running: Mutex<HashMap<Vec<u8>, Running>>,
}

/// A caller's handle to a job.
pub struct Attached {
    pub state: watch::Receiver<JobState>,
    /// Takes the answers to the job's questions.
    pub answers: Answers,
    /// Cancels the job at its next safe point.
    pub cancel: CancellationToken,
}

impl Running {
    fn attached(&self) -> Attached {
        Attached { state: self.state.clone(), answers: self.answers.clone(), cancel: self.cancel.clone() }
    }
}

fn error(kind: v1::ErrorKind, message: impl Into<String>) -> v1::Error {
    v1::Error { kind: kind.into(), message: message.into() }
}

fn ended(result: v1::Result) -> Attached {
    let state = JobState { ended: Some(result), ..JobState::default() };
    Attached { state: watch::channel(state).1, answers: Answers::default(), cancel: CancellationToken::new() }
}

impl Jobs {
    /// No job runs yet. Jobs that the journal has as begun were interrupted by the end of an earlier agent.
    pub fn new(worker: Arc<dyn Worker>, assignments: Arc<AssignmentStore>, journal: Journal) -> Self {
        Self(Arc::new(Inner { worker, assignments, journal, running: Mutex::default() }))
    }

    fn try_start(&self, start: v1::Start) -> Result<Attached, v1::Error> {
        let invalid = |what: &str| error(v1::ErrorKind::Invalid, format!("start a job: {what}"));
        let broken = |cause: anyhow::Error| error(v1::ErrorKind::Transient, format!("{cause:#}"));
        let key = start.key.clone().ok_or_else(|| invalid("the key is missing"))?;
        let work = start.work.ok_or_else(|| invalid("the work is missing"))?;
        let lane = self.0.worker.lane(&work);
        if !self.0.assignments.admit(lane, start.fence).map_err(broken)? {
            let text = format!("fence {} is older than one of a call that excludes this one", start.fence);
            return Err(error(v1::ErrorKind::Fenced, text));
        }
        let sum = fingerprint(&work).map_err(broken)?;
        let id = prost::Message::encode_to_vec(&key);
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        // The controller runs one operation at a time in a lane. A job with a newer fence therefore means that it has
        // given up the older operation: cancel that operation's jobs.
        for (_, old) in running.iter().filter(|(key, old)| **key != id && old.lane.excludes(lane)) {
            if old.fence < start.fence {
                info!(job = old.name, by = ?key, "cancelled: its operation is over");
                old.cancel.cancel();
            }
        }
        if let Some(known) = running.get_mut(&id) {
            if known.fingerprint != sum {
                return Err(invalid("another job has this key"));
            }
            known.fence = known.fence.max(start.fence);
            return Ok(known.attached());
        }
        match self.0.journal.entry(&key).map_err(broken)? {
            Some(Entry { fingerprint, .. }) if fingerprint != sum => return Err(invalid("another job has this key")),
            Some(Entry { outcome, .. }) => match outcome.result().map_err(broken)? {
                Some(result) => return Ok(ended(result)),
                None => info!(?key, "a job that was cut off runs again"),
            },
            None => {}
        }
        self.0.journal.record(&key, &sum, journal::Outcome::Begun).map_err(broken)?;
        let before: Vec<_> = running.values().filter(|old| old.lane.excludes(lane)).collect();
        let before = before.into_iter().map(|old| (old.name.clone(), old.state.clone())).collect();
        let (sender, state) = watch::channel(JobState::default());
        let cancel = CancellationToken::new();
        let (fence, name) = (start.fence, format!("{} of operation {}", key.step, key.operation));
        let answers = Answers::default();
        let of_it = (answers.clone(), cancel.clone());
        let operation = key.operation.clone();
        let job = Running { operation, lane, fence, name, fingerprint: sum.clone(), state, answers, cancel };
        let attached = job.attached();
        running.insert(id.clone(), job);
        drop(running);
        let span = info_span!("job", operation = key.operation, step = key.step, attempt = key.attempt);
        let (answers, cancel) = of_it;
        let job = Job { key, jobs: self.clone(), state: sender, answers, one_question: Default::default(), cancel };
        let deadline = Duration::from_secs(start.deadline_s.max(1).into());
        tokio::spawn(job.run(id, sum, work, before, deadline).instrument(span));
        Ok(attached)
    }
}

impl JobQueue for Jobs {
    fn start(&self, start: v1::Start) -> Attached {
        match self.try_start(start) {
            Ok(attached) => attached,
            Err(refused) => ended(v1::Result { error: Some(refused), outcome: None }),
        }
    }

    fn cancel(&self, operation: &str) {
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        for job in running.values().filter(|job| job.operation == operation) {
            info!(job = job.name, "cancelled: the controller has ended its operation");
            job.cancel.cancel();
        }
    }
}

/// Name and state of each job that another one waits for.
type Before = Vec<(String, watch::Receiver<JobState>)>;

/// A running job, as its worker sees it.
pub struct Job {
    pub key: v1::JobKey,
    jobs: Jobs,
    state: watch::Sender<JobState>,
    answers: Answers,
    one_question: tokio::sync::Mutex<()>,
    cancel: CancellationToken,
}

impl Job {
    async fn run(self, id: Vec<u8>, sum: String, work: v1::start::Work, before: Before, deadline: Duration) {
        let inner = &self.jobs.0;
        let outcome = async {
            self.wait_for(before).await?;
            let late =
                |_| error(v1::ErrorKind::Transient, format!("the job did not end within {} s", deadline.as_secs()));
            tokio::time::timeout(deadline, inner.worker.work(&self, work)).await.map_err(late)?
        };
        let outcome = outcome.await;
        let recorded = match &outcome {
            Ok(outcome) => Some(journal::Outcome::succeeded(outcome.clone())),
            // A transient failure is not recorded, so that the controller can try again under the same key.
            Err(e) if e.kind() == v1::ErrorKind::Transient => None,
            Err(e) => Some(journal::Outcome::Failed { kind: e.kind, message: e.message.clone() }),
        };
        let written = recorded.map(|outcome| inner.journal.record(&self.key, &sum, outcome));
        if let Some(Err(cause)) = written {
            error!(error = format!("{cause:#}"), "a job's end could not be written down: asked again, it runs again");
        }
        let result = match outcome {
            Ok(outcome) => {
                info!(?outcome, "done");
                v1::Result { error: None, outcome: Some(outcome) }
            }
            Err(e) => {
                info!(error = e.message, "failed");
                v1::Result { error: Some(e), outcome: None }
            }
        };
        inner.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.state.send_modify(|state| state.ended = Some(result));
    }

    /// Waits until the given earlier jobs have ended. There is no deadlock, since a job waits for earlier ones only.
    async fn wait_for(&self, before: Before) -> Result<(), v1::Error> {
        for (name, mut state) in before {
            let text = format!("waits for {name}");
            self.note(&text);
            info!("{text}");
            tokio::select! {
                // A dropped sender means that the job has ended, too.
                _ = state.wait_for(|state| state.ended.is_some()) => {}
                () = self.cancel.cancelled() => {
                    return Err(error(v1::ErrorKind::Cancelled, format!("cancelled while it waited for {name}")));
                }
            }
        }
        Ok(())
    }

    /// Reports the stage. Reported amounts stay as they are.
    pub fn note(&self, stage: &str) {
        self.state.send_modify(|state| stage.clone_into(&mut state.progress.stage));
    }

    /// Reports the stage and an amount: `done` of `total`, if that is known, in a unit such as `bytes` or `items`.
    pub fn progress(&self, stage: &str, done: u64, total: Option<u64>, unit: &str) {
        let progress = v1::Progress { stage: stage.to_owned(), done: Some(done), total, unit: unit.to_owned() };
        self.state.send_modify(|state| state.progress = progress);
    }

    /// Token that is cancelled when the job must end. A long stage observes it, leaves nothing half done, and returns
    /// any error; that error is reported as a cancellation.
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Waits for `work` until the job is cancelled. Only for work that continues when nobody waits for it.
    pub async fn unless_cancelled<T>(
        &self,
        wait: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        tokio::select! {
            biased;
            done = wait => done,
            () = self.cancel.cancelled() => Err(EngineError::new(Kind::Transient, "it is not waited for any more")),
        }
    }

    /// Runs a stage, with a failpoint before and after it. A cancelled job does not begin the stage; a running stage is
    /// interrupted only where its work observes [`Job::cancel`].
    pub async fn stage<T>(
        &self,
        job: &str,
        stage: &str,
        work: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, v1::Error> {
        if self.cancel.is_cancelled() {
            return Err(error(v1::ErrorKind::Cancelled, format!("cancelled before {stage}")));
        }
        let progress = v1::Progress { stage: stage.to_owned(), ..v1::Progress::default() };
        self.state.send_modify(|state| state.progress = progress);
        let all = async {
            pass(&format!("agent.{job}.before_{stage}"))?;
            let done = work.await?;
            pass(&format!("agent.{job}.after_{stage}"))?;
            Ok(done)
        };
        all.await.map_err(|cause: EngineError| {
            let wire = wire_error(&cause);
            if self.cancel.is_cancelled() {
                return error(v1::ErrorKind::Cancelled, format!("cancelled in {stage}: {}", wire.message));
            }
            v1::Error { message: format!("{stage}: {}", wire.message), ..wire }
        })
    }
}
