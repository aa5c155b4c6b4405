//! Jobs: started once a key, attached to as often as wanted, recorded in the journal. A job waits for those that came before
//! it and that its lane excludes ([`crate::lanes`]); one under a newer fence cancels them.

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

/// What a job is doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobState {
    /// How far it is; without a stage before it has begun.
    pub progress: v1::Progress,
    /// How it ended.
    pub ended: Option<v1::Result>,
}

struct Running {
    lane: Lane,
    fence: u64,
    name: String,
    fingerprint: String,
    state: watch::Receiver<JobState>,
    cancel: CancellationToken,
}

pub use v1::result::Outcome;

/// Does what jobs ask for. The engine's is [`crate::work::EngineWork`]; the simulator has its own.
#[async_trait]
pub trait Worker: Send + Sync {
    /// Does it, stage by stage.
    ///
    /// # Errors
    /// As they go back to the controller.
    async fn work(&self, job: &Job, work: v1::start::Work) -> Result<Outcome, v1::Error>;

    /// What it excludes.
    fn lane(&self, work: &v1::start::Work) -> Lane {
        Lane::of(work)
    }
}

/// Where the services hand jobs in. The real one is [`Jobs`]; the simulator looks at what passes to it.
pub trait JobQueue: Send + Sync {
    /// Starts a job, attaches to it, or answers with what became of it.
    fn start(&self, start: v1::Start) -> Attached;
}

/// All jobs. Cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    worker: Arc<dyn Worker>,
    assignments: Arc<AssignmentStore>,
    journal: Journal,
    running: Mutex<HashMap<Vec<u8>, Running>>,
}

/// What is heard of a job, and the way to cancel it.
pub struct Attached {
    /// Its state, and every change of it.
    pub state: watch::Receiver<JobState>,
    /// Cancels it at its next safe point.
    pub cancel: CancellationToken,
}

fn error(kind: v1::ErrorKind, message: impl Into<String>) -> v1::Error {
    v1::Error { kind: kind.into(), message: message.into() }
}

fn ended(result: v1::Result) -> Attached {
    let state = JobState { ended: Some(result), ..JobState::default() };
    Attached { state: watch::channel(state).1, cancel: CancellationToken::new() }
}

impl Jobs {
    /// With nothing running; what the journal has as begun was cut off.
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
        // One operation at a time works in a lane, one job after the other: whoever asks for another job under a newer fence has
        // given up what still runs.
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
            return Ok(Attached { state: known.state.clone(), cancel: known.cancel.clone() });
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
        let (state_of_it, cancel_of_it) = (state.clone(), cancel.clone());
        let job = Running { lane, fence, name, fingerprint: sum.clone(), state: state_of_it, cancel: cancel_of_it };
        running.insert(id.clone(), job);
        drop(running);
        let span = info_span!("job", operation = key.operation, step = key.step, attempt = key.attempt);
        let job = Job { key, jobs: self.clone(), state: sender, cancel: cancel.clone() };
        let deadline = Duration::from_secs(start.deadline_s.max(1).into());
        tokio::spawn(job.run(id, sum, work, before, deadline).instrument(span));
        Ok(Attached { state, cancel })
    }
}

impl JobQueue for Jobs {
    fn start(&self, start: v1::Start) -> Attached {
        match self.try_start(start) {
            Ok(attached) => attached,
            Err(refused) => ended(v1::Result { error: Some(refused), outcome: None }),
        }
    }
}

/// Jobs that come before one, with what they are called.
type Before = Vec<(String, watch::Receiver<JobState>)>;

/// A job that runs.
pub struct Job {
    /// Under which it was asked for.
    pub key: v1::JobKey,
    jobs: Jobs,
    state: watch::Sender<JobState>,
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
            // What may work when it is asked again under the same key is not written down as its end.
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

    /// Waits until the jobs that came before it have ended. They wait for none that came later.
    async fn wait_for(&self, before: Before) -> Result<(), v1::Error> {
        for (name, mut state) in before {
            let text = format!("waits for {name}");
            self.note(&text);
            info!("{text}");
            tokio::select! {
                // One whose sender is gone has ended too.
                _ = state.wait_for(|state| state.ended.is_some()) => {}
                () = self.cancel.cancelled() => {
                    return Err(error(v1::ErrorKind::Cancelled, format!("cancelled while it waited for {name}")));
                }
            }
        }
        Ok(())
    }

    /// Says what it is doing. What was said of amounts stays.
    pub fn note(&self, stage: &str) {
        self.state.send_modify(|state| stage.clone_into(&mut state.progress.stage));
    }

    /// Says how far it is: what is done of a total, which may not be known, in a unit such as `bytes` or `items`.
    pub fn progress(&self, stage: &str, done: u64, total: Option<u64>, unit: &str) {
        let progress = v1::Progress { stage: stage.to_owned(), done: Some(done), total, unit: unit.to_owned() };
        self.state.send_modify(|state| state.progress = progress);
    }

    /// Is cancelled when the job is to end. A stage that takes long observes it, leaves nothing half done, and returns any
    /// error, which then counts as the cancellation.
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Waits for something that goes on by itself when nobody waits for it any more.
    ///
    /// # Errors
    /// Its own, or that the job was cancelled.
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

    /// A stage with failpoints around it; the cancellation takes effect before it, and in it where its work observes it.
    ///
    /// # Errors
    /// As the stage's work.
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
