//! One operation under one claim: its steps, and its undos when one of them fails.
//!
//! ```text
//! queued -> running -> done
//!             |  `---> cancelled      asked to end, at any await
//!             v
//!           undoing -> failed
//!             |  ^
//!             v  |
//!            stuck                    an undo does not succeed; tried on, slowly
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, histogram};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trove_proto::v1;

use super::Changes;
use super::points::Points;
use super::steps::{Registered, StepError, StepResult};
use super::timing::Timing;
use super::work::{RunnerContext, Work};
use crate::error::{Error, Result, chain};
use crate::store::operations::Status;
use crate::store::operations::lease::{Claimed, Lease, Started, Writes};
use crate::store::sql::Transaction;

/// At most so often is progress written, except when the stage changes.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// After an agent or the driver said that a newer fence is about, though the claim is still ours.
const FENCED_DELAY: Duration = Duration::from_secs(1);

/// What ends an execution before its time.
pub(super) struct Ending {
    /// The operation was asked to end.
    pub(super) cancel: CancellationToken,
    /// The controller ends.
    pub(super) shutdown: CancellationToken,
}

/// Why an execution stopped.
enum Stop {
    /// The operation has ended, or was let go of.
    Ended,
    /// It was asked to end.
    Cancelled,
    /// The controller ends.
    Shutdown,
    /// Another controller has it.
    Lost,
    /// A step met a greater fence than ours.
    Fenced,
    /// The store does not work.
    Store(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// One operation under one claim.
pub(super) struct Execution {
    context: RunnerContext,
    entry: Arc<dyn Registered>,
    claimed: Claimed,
    begun: Instant,
    timing: Timing,
    points: Points,
    /// The claim; it changes when the fence is raised. Shared by the steps and the renewal beside them.
    lease: Mutex<Lease>,
    /// Whoever writes under the claim beside the steps, or raises the fence, or ends the operation: one at a time, so that
    /// the renewal and the progress never meet a fence or an end that this execution has committed and not heard of yet.
    turn: tokio::sync::Mutex<()>,
    /// What the step that runs says of its progress, with the step's index.
    progress: watch::Sender<(usize, Arc<watch::Sender<Option<v1::Progress>>>)>,
}

/// Tells of a change when it is dropped.
struct Told<'a>(&'a Changes);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.bump();
    }
}

/// Where an execution stands.
struct Place {
    status: Status,
    position: usize,
    attempt: u32,
    state: Value,
    error: String,
}

impl Execution {
    pub(super) fn new(
        context: RunnerContext,
        entry: Arc<dyn Registered>,
        claimed: Claimed,
        timing: Timing,
        points: Points,
    ) -> Self {
        let lease = Mutex::new(claimed.lease);
        let progress = watch::Sender::new((0, Arc::new(watch::Sender::new(None))));
        Self {
            context,
            entry,
            claimed,
            begun: Instant::now(),
            timing,
            points,
            lease,
            turn: tokio::sync::Mutex::default(),
            progress,
        }
    }

    /// Runs it until it has ended or must be let go of.
    pub(super) async fn run(self, ending: Ending) {
        let stop = tokio::select! {
            biased;
            () = ending.cancel.cancelled() => Stop::Cancelled,
            () = ending.shutdown.cancelled() => Stop::Shutdown,
            stop = self.keep_lease() => stop,
            stop = self.show_progress() => stop,
            stop = self.advance() => stop,
        };
        let written = match stop {
            Stop::Ended => Ok(()),
            Stop::Cancelled => {
                tracing::info!("cancelled");
                self.count("cancelled");
                self.let_go(|writes| Box::pin(writes.end(Status::Cancelled))).await
            }
            Stop::Shutdown => self.let_go(|writes| Box::pin(writes.park(Duration::ZERO, false))).await,
            Stop::Fenced => {
                tracing::warn!("the lease is stale, or an agent or the driver has seen a greater fence");
                self.let_go(|writes| Box::pin(writes.park(FENCED_DELAY, false))).await
            }
            Stop::Lost => {
                counter!("trove_operation_leases_lost_total").increment(1);
                tracing::warn!("the lease is lost; another controller goes on");
                Ok(())
            }
            Stop::Store(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::error!("left until its lease runs out: {}", chain(&error));
        }
    }

    /// The last write under the claim, if it is still held.
    async fn let_go(
        &self,
        write: impl for<'a> FnOnce(&'a mut Writes<'_>) -> futures::future::BoxFuture<'a, Result<()>>,
    ) -> Result<()> {
        let lease = self.lease();
        let Some(mut tx) = self.context.store.begin_fenced(lease).await? else { return Ok(()) };
        write(&mut Writes { conn: &mut tx, id: lease.id }).await?;
        self.commit(tx).await
    }

    fn lease(&self) -> Lease {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn begin(&self) -> std::result::Result<Transaction, Stop> {
        self.context.store.begin_fenced(self.lease()).await?.ok_or(Stop::Lost)
    }

    async fn commit(&self, tx: Transaction) -> Result<()> {
        // Also when this is dropped while the commit is under way, by a cancellation: it may have taken effect.
        let _told = Told(&self.context.changes);
        tx.commit().await.map_err(|error| Error::internal("commit a step of an operation", error))
    }

    /// Renews the claim for as long as it is polled. A store that fails or does not answer says nothing about the claim:
    /// it is given up when its own time is over.
    async fn keep_lease(&self) -> Stop {
        let mut held_until = Instant::now() + self.timing.lease;
        loop {
            tokio::time::sleep(self.timing.renew).await;
            let begun = Instant::now();
            let renewed = async {
                let _turn = self.turn.lock().await;
                self.context.store.renew_lease(self.lease(), self.timing.lease).await
            };
            match tokio::time::timeout_at(held_until, renewed).await {
                Ok(Ok(Some(true))) => return Stop::Cancelled,
                Ok(Ok(Some(false))) => held_until = begun + self.timing.lease,
                Ok(Ok(None)) | Err(_) => return Stop::Lost,
                Ok(Err(error)) => tracing::error!("{}", chain(&error)),
            }
        }
    }

    /// Writes what the steps say of their progress, at once when the stage changes, else once a second.
    async fn show_progress(&self) -> Stop {
        let mut steps = self.progress.subscribe();
        loop {
            let (n, sender) = steps.borrow_and_update().clone();
            let mut progress = sender.subscribe();
            drop(sender);
            // What was said before we listened.
            progress.mark_changed();
            let mut stage = String::new();
            let mut next_write = Instant::now();
            loop {
                tokio::select! {
                    biased;
                    changed = steps.changed() => if changed.is_err() { return Stop::Ended } else { break },
                    changed = progress.changed() => if changed.is_err() {
                        // The step is over; the next one brings a sender of its own.
                        if steps.changed().await.is_err() { return Stop::Ended }
                        break;
                    },
                }
                let Some(now) = progress.borrow_and_update().clone() else { continue };
                if now.stage == stage {
                    tokio::time::sleep_until(next_write).await;
                }
                let Some(latest) = progress.borrow_and_update().clone() else { continue };
                stage.clone_from(&latest.stage);
                next_write = Instant::now() + PROGRESS_INTERVAL;
                if let Err(stop) = self.write_progress(n, &latest).await {
                    return stop;
                }
            }
        }
    }

    async fn write_progress(&self, n: usize, progress: &v1::Progress) -> std::result::Result<(), Stop> {
        // The unit where there are amounts, else the stage; as `app::operations::Step` shows it.
        let word = if progress.done.is_some() { &progress.unit } else { &progress.stage };
        let json = serde_json::json!([progress.done, progress.total, word]);
        let _turn = self.turn.lock().await;
        let mut tx = self.begin().await?;
        Writes { conn: &mut tx, id: self.claimed.lease.id }.progress(n, &json).await?;
        Ok(self.commit(tx).await?)
    }

    async fn advance(&self) -> Stop {
        let mut place = Place {
            status: self.claimed.status,
            position: self.claimed.position,
            attempt: self.claimed.attempt,
            state: self.claimed.state.clone(),
            error: self.claimed.error.clone().unwrap_or_default(),
        };
        if self.claimed.cancel {
            return Stop::Cancelled;
        }
        loop {
            let went = match place.status {
                Status::Undoing | Status::Stuck => self.undo_next(&mut place).await,
                _ => self.do_next(&mut place).await,
            };
            match went {
                Ok(()) if place.status.is_final() => return Stop::Ended,
                Ok(()) => {}
                Err(stop) => return stop,
            }
        }
    }

    /// Does the next step to its end: done and recorded, or failed and the undos begun.
    async fn do_next(&self, place: &mut Place) -> std::result::Result<(), Stop> {
        let n = place.position;
        let name = self.step_name(n)?;
        let mut tx = self.begin().await?;
        let started = Writes { conn: &mut tx, id: self.claimed.lease.id }.start_step(n).await?;
        self.commit(tx).await?;
        let deadline = self.entry.deadline(&name).map(|limit| Instant::now() + self.time_left(limit, started));
        let mut delay = self.timing.first_delay;
        let mut last = String::new();
        loop {
            let work = self.work(n, &name, place.attempt, deadline);
            let error = match self.try_step(&work, n, place, &last).await {
                Ok(()) => return Ok(()),
                Err(StepError::Fenced) => return Err(Stop::Fenced),
                Err(StepError::Fatal(reason)) => return self.fail(n, &name, &reason, place).await,
                Err(error) => error,
            };
            last = error.to_string();
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return self.fail(n, &name, &self.late(&name, &last), place).await;
            }
            if matches!(error, StepError::Anew(_)) {
                place.attempt += 1;
            }
            tracing::debug!(step = name, "to be tried again: {last}");
            let park = deadline.is_none() && delay >= self.timing.greatest_delay;
            self.record_retry(n, &last, place.attempt, park.then_some(false)).await?;
            let again = Instant::now() + delay;
            tokio::time::sleep_until(deadline.map_or(again, |deadline| again.min(deadline))).await;
            delay = (delay * 2).min(self.timing.greatest_delay);
        }
    }

    /// What is left of a step's time, counted from its first start.
    fn time_left(&self, limit: Duration, started: Started) -> Duration {
        let left = limit.saturating_sub(started.ago);
        if started.again { left.max(limit.min(self.timing.grace)) } else { left }
    }

    fn late(&self, step: &str, last: &str) -> String {
        let limit = self.entry.deadline(step).unwrap_or_default().as_secs();
        if last.is_empty() {
            return format!("it was not done within {limit} s");
        }
        format!("it was not done within {limit} s; last error: {last}")
    }

    /// One try of a step within its deadline, and its record.
    async fn try_step(&self, work: &Work, n: usize, place: &mut Place, last: &str) -> StepResult {
        let mut state = place.state.clone();
        let step = async {
            self.points.pass(&self.point(&work.step, "before")).await?;
            self.entry.run(work, &mut state).await?;
            self.points.pass(&self.point(&work.step, "after")).await
        };
        match work.deadline {
            None => step.await?,
            Some(deadline) => {
                let late = |_| StepError::Fatal(self.late(&work.step, last));
                tokio::time::timeout_at(deadline, step).await.map_err(late)??;
            }
        }
        let _turn = self.turn.lock().await;
        let mut tx = work.begin().await?;
        let is_last = n + 1 == self.claimed.steps.len();
        let mut writes = Writes { conn: &mut tx, id: self.claimed.lease.id };
        writes.step_done(n, &state).await?;
        if is_last {
            self.entry.finished(work, writes.conn, &state).await?;
            writes.end(Status::Done).await?;
        }
        self.commit(tx).await?;
        tracing::info!(step = work.step, "done");
        place.state = state;
        place.position = n + 1;
        place.attempt = 1;
        if is_last {
            self.count("done");
            place.status = Status::Done;
        }
        Ok(())
    }

    async fn fail(&self, n: usize, name: &str, reason: &str, place: &mut Place) -> std::result::Result<(), Stop> {
        tracing::warn!(step = name, "failed: {reason}");
        let error = format!("{name}: {reason}");
        let _turn = self.turn.lock().await;
        let mut tx = self.begin().await?;
        let lease = Writes { conn: &mut tx, id: self.claimed.lease.id }.step_failed(n, reason, &error).await?;
        self.commit(tx).await?;
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = lease;
        place.status = Status::Undoing;
        place.position = n + 1;
        place.attempt = 1;
        place.error = error;
        Ok(())
    }

    /// Undoes the step before the position, or ends the operation when there is none.
    async fn undo_next(&self, place: &mut Place) -> std::result::Result<(), Stop> {
        let Some(n) = place.position.checked_sub(1) else { return self.end_failed(place).await };
        let name = self.step_name(n)?;
        let mut delay = self.timing.first_delay;
        loop {
            let mut tx = self.begin().await?;
            let started = Writes { conn: &mut tx, id: self.claimed.lease.id }.start_undo(n).await?;
            self.commit(tx).await?;
            let limit = self.timing.undo_deadline;
            let work = self.work(n, &name, place.attempt, Some(Instant::now() + self.time_left(limit, started)));
            let reason = match self.try_undo(&work, n, place).await {
                Ok(()) => return Ok(()),
                Err(StepError::Fenced) => return Err(Stop::Fenced),
                Err(error) => format!("undo: {error}"),
            };
            let stuck = started.ago >= limit;
            tracing::warn!(step = name, stuck, "to be tried again: {reason}");
            self.record_retry(n, &reason, place.attempt, stuck.then_some(true)).await?;
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(self.timing.greatest_delay);
        }
    }

    /// One try of an undo, and its record. A step without undo is only recorded.
    async fn try_undo(&self, work: &Work, n: usize, place: &mut Place) -> StepResult {
        let mut state = place.state.clone();
        if self.entry.has_undo(&work.step) {
            let undo = async {
                self.points.pass(&self.point(&work.step, "undo_before")).await?;
                self.entry.undo(work, &mut state).await?;
                self.points.pass(&self.point(&work.step, "undo_after")).await
            };
            let late = |_| StepError::Unknown("it was not done in time".to_owned());
            tokio::time::timeout_at(work.deadline.unwrap_or_else(Instant::now), undo).await.map_err(late)??;
        }
        let mut tx = work.begin().await?;
        Writes { conn: &mut tx, id: self.claimed.lease.id }.undo_done(n, &state).await?;
        self.commit(tx).await?;
        place.state = state;
        place.position = n;
        Ok(())
    }

    async fn end_failed(&self, place: &mut Place) -> std::result::Result<(), Stop> {
        let work = self.work(0, "", 1, None);
        let _turn = self.turn.lock().await;
        let mut tx = self.begin().await?;
        self.entry.failed(&work, &mut tx, &place.error).await?;
        Writes { conn: &mut tx, id: self.claimed.lease.id }.end(Status::Failed).await?;
        self.commit(tx).await?;
        self.count("failed");
        place.status = Status::Failed;
        Ok(())
    }

    /// Counts the end of the operation.
    fn count(&self, how: &'static str) {
        let kind = self.entry.kind();
        counter!("trove_operations_ended_total", "kind" => kind, "how" => how).increment(1);
        histogram!("trove_operation_duration_seconds", "kind" => kind).record(self.begun.elapsed());
    }

    /// Writes why a step or an undo is tried again. With `park` it also lets go of the operation for a while; the value
    /// says whether it is stuck.
    async fn record_retry(
        &self,
        n: usize,
        reason: &str,
        attempt: u32,
        park: Option<bool>,
    ) -> std::result::Result<(), Stop> {
        let mut tx = self.begin().await?;
        let mut writes = Writes { conn: &mut tx, id: self.claimed.lease.id };
        writes.retry(n, reason, attempt).await?;
        if let Some(stuck) = park {
            writes.park(self.timing.parked, stuck).await?;
        }
        self.commit(tx).await?;
        if park.is_some() { Err(Stop::Ended) } else { Ok(()) }
    }

    fn step_name(&self, n: usize) -> Result<String> {
        let missing = || Error::Internal { attempt: format!("find step {n} of the operation"), source: None };
        self.claimed.steps.get(n).cloned().ok_or_else(missing)
    }

    fn point(&self, step: &str, place: &str) -> String {
        format!("operation.{}.{step}.{place}", self.claimed.kind)
    }

    fn work(&self, n: usize, step: &str, attempt: u32, deadline: Option<Instant>) -> Work {
        let progress = Arc::new(watch::Sender::new(None));
        self.progress.send_replace((n, progress.clone()));
        Work {
            context: self.context.clone(),
            lease: self.lease(),
            instance: self.claimed.instance,
            user_id: self.claimed.user_id.clone(),
            step: step.to_owned(),
            attempt,
            deadline,
            progress,
        }
    }
}
