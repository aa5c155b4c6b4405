//! Jobs: started once a key, attached to as often as wanted, recorded in the journal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span};
use trove_proto::v1;
use trove_strategy::EngineError;

use crate::driver::pass;
use crate::journal::{Entry, Journal, Outcome, fingerprint};
use crate::settings::Keeper;
use crate::status::wire_error;

/// What a job is doing.
#[derive(Clone, Debug, Default)]
pub struct JobState {
    /// The stage it is in.
    pub stage: String,
    /// How it ended: `Some(None)` is success.
    pub ended: Option<Option<v1::Error>>,
}

struct Running {
    fence: u64,
    fingerprint: String,
    state: watch::Receiver<JobState>,
    cancel: CancellationToken,
}

/// Does what jobs ask for. The engine's is [`crate::work::EngineWork`]; the simulator has its own.
#[async_trait]
pub trait Worker: Send + Sync {
    /// Does it, stage by stage.
    ///
    /// # Errors
    /// As they go back to the controller.
    async fn work(&self, job: &Job, work: v1::start::Work) -> Result<(), v1::Error>;
}

/// All jobs. Cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    worker: Arc<dyn Worker>,
    keeper: Arc<Keeper>,
    journal: Journal,
    running: Mutex<HashMap<Vec<u8>, Running>>,
    /// One job at a time: they all work on one engine.
    turn: tokio::sync::Mutex<()>,
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

fn ended(outcome: Option<v1::Error>) -> Attached {
    let state = JobState { stage: String::new(), ended: Some(outcome) };
    Attached { state: watch::channel(state).1, cancel: CancellationToken::new() }
}

impl Jobs {
    /// With nothing running; what the journal has as begun was cut off.
    pub fn new(worker: Arc<dyn Worker>, keeper: Arc<Keeper>, journal: Journal) -> Self {
        let (running, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Self(Arc::new(Inner { worker, keeper, journal, running, turn }))
    }

    /// Starts a job, attaches to it, or answers with what became of it.
    pub fn start(&self, start: v1::Start) -> Attached {
        match self.try_start(start) {
            Ok(attached) => attached,
            Err(refused) => ended(Some(refused)),
        }
    }

    fn try_start(&self, start: v1::Start) -> Result<Attached, v1::Error> {
        let invalid = |what: &str| error(v1::ErrorKind::Invalid, format!("start a job: {what}"));
        let broken = |cause: anyhow::Error| error(v1::ErrorKind::Transient, format!("{cause:#}"));
        let key = start.key.clone().ok_or_else(|| invalid("the key is missing"))?;
        let work = start.work.ok_or_else(|| invalid("the work is missing"))?;
        if !self.0.keeper.admit(start.fence).map_err(broken)? {
            let seen = self.0.keeper.fence();
            return Err(error(v1::ErrorKind::Fenced, format!("fence {} is older than {seen}", start.fence)));
        }
        let sum = fingerprint(&work);
        let id = prost::Message::encode_to_vec(&key);
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        // One operation at a time works on an instance, one job after the other: whoever asks for another job under a
        // newer fence has given up what still runs.
        for (_, old) in running.iter().filter(|(key, old)| **key != id && old.fence < start.fence) {
            old.cancel.cancel();
        }
        if let Some(known) = running.get(&id) {
            if known.fingerprint != sum {
                return Err(invalid("another job has this key"));
            }
            return Ok(Attached { state: known.state.clone(), cancel: known.cancel.clone() });
        }
        match self.0.journal.entry(&key).map_err(broken)? {
            Some(Entry { fingerprint, .. }) if fingerprint != sum => return Err(invalid("another job has this key")),
            Some(Entry { outcome: Outcome::Done, .. }) => return Ok(ended(None)),
            Some(Entry { outcome: Outcome::Failed { kind, message }, .. }) => {
                return Ok(ended(Some(v1::Error { kind, message })));
            }
            Some(Entry { outcome: Outcome::Begun, .. }) => info!(?key, "a job that was cut off runs again"),
            None => {}
        }
        self.0.journal.record(&key, &sum, Outcome::Begun).map_err(broken)?;
        let (sender, state) = watch::channel(JobState::default());
        let cancel = CancellationToken::new();
        let job =
            Running { fence: start.fence, fingerprint: sum.clone(), state: state.clone(), cancel: cancel.clone() };
        running.insert(id.clone(), job);
        drop(running);
        let span = info_span!("job", operation = key.operation, step = key.step, attempt = key.attempt);
        let job = Job { key, jobs: self.clone(), state: sender, cancel: cancel.clone() };
        let deadline = Duration::from_secs(start.deadline_s.max(1).into());
        tokio::spawn(job.run(id, sum, work, deadline).instrument(span));
        Ok(Attached { state, cancel })
    }
}

/// A job that runs.
pub struct Job {
    /// Under which it was asked for.
    pub key: v1::JobKey,
    jobs: Jobs,
    state: watch::Sender<JobState>,
    cancel: CancellationToken,
}

impl Job {
    async fn run(self, id: Vec<u8>, sum: String, work: v1::start::Work, deadline: Duration) {
        let inner = &self.jobs.0;
        let outcome = {
            let _turn = inner.turn.lock().await;
            tokio::time::timeout(deadline, inner.worker.work(&self, work)).await
        };
        let late = || error(v1::ErrorKind::Transient, format!("the job did not end within {} s", deadline.as_secs()));
        let failed = outcome.unwrap_or_else(|_| Err(late())).err();
        let recorded = match &failed {
            None => Some(Outcome::Done),
            // What may work when it is asked again under the same key is not written down as its end.
            Some(e) if e.kind() == v1::ErrorKind::Transient => None,
            Some(e) => Some(Outcome::Failed { kind: e.kind, message: e.message.clone() }),
        };
        let written = recorded.map(|outcome| inner.journal.record(&self.key, &sum, outcome));
        if let Some(Err(cause)) = written {
            error!(error = format!("{cause:#}"), "a job's end could not be written down: asked again, it runs again");
        }
        match &failed {
            None => info!("done"),
            Some(e) => info!(error = e.message, "failed"),
        }
        inner.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.state.send_modify(|state| state.ended = Some(failed));
    }

    /// Says what it is doing.
    pub fn note(&self, stage: &str) {
        self.state.send_modify(|state| stage.clone_into(&mut state.stage));
    }

    /// A stage with failpoints around it; the cancellation takes effect before it.
    ///
    /// # Errors
    /// As the stage's work.
    pub async fn stage(
        &self,
        job: &str,
        stage: &str,
        work: impl Future<Output = Result<(), EngineError>>,
    ) -> Result<(), v1::Error> {
        if self.cancel.is_cancelled() {
            return Err(error(v1::ErrorKind::Cancelled, format!("cancelled before {stage}")));
        }
        self.note(stage);
        let all = async {
            pass(&format!("agent.{job}.before_{stage}"))?;
            work.await?;
            pass(&format!("agent.{job}.after_{stage}"))
        };
        all.await.map_err(|cause| {
            let mut wire = wire_error(&cause);
            wire.message = format!("{stage}: {}", wire.message);
            wire
        })
    }
}
