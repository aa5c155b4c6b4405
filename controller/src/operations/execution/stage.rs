//! One stage of an operation: its step on every target at once, each with tries, deadline, progress and record of its own;
//! and the undo of it.

use std::time::Duration;

use futures::stream::{StreamExt as _, TryStreamExt as _};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument as _;
use trove_proto::v1;

use super::{Execution, Stop};
use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::operations::outcome::{StepError, StepResult};
use crate::operations::target::Target;
use crate::store::operations::Status;
use crate::store::operations::lease::{Begun, Started};

/// How many targets of an operation are worked on at once.
const AT_ONCE: usize = 16;
/// At most so often is progress written, except when the stage changes.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// A step on one target.
struct Row {
    /// Index of the stage.
    n: usize,
    /// Name of the step.
    step: String,
    instance: InstanceId,
    started: Started,
    attempt: u32,
}

impl Execution {
    /// Does the step of stage `n` on every target to its end: done and recorded on all, or failed on one and the undos begun.
    pub(super) async fn do_stage(&self, n: usize) -> std::result::Result<(), Stop> {
        let mut tx = self.begin().await?;
        let begun = self.writes(&mut tx).start_steps(n).await?;
        self.commit(tx).await?;
        self.on_each(n, begun, |row| self.do_row(row)).await
    }

    /// Undoes stage `n` on every target.
    pub(super) async fn undo_stage(&self, n: usize) -> std::result::Result<(), Stop> {
        let mut tx = self.begin().await?;
        let begun = self.writes(&mut tx).start_undos(n).await?;
        self.commit(tx).await?;
        self.on_each(n, begun, |row| self.undo_row(row)).await
    }

    /// Works on all rows at once, and drops the others when one of them stops the stage.
    async fn on_each<'a, F>(
        &'a self,
        n: usize,
        begun: Vec<Begun>,
        work: impl Fn(Row) -> F,
    ) -> std::result::Result<(), Stop>
    where
        F: Future<Output = std::result::Result<(), Stop>> + Send + 'a,
    {
        let step = self.step_name(n)?;
        {
            let mut state = self.state();
            state.left = begun.iter().map(|begun| begun.target).collect();
            state.patient.clear();
        }
        let row = |Begun { target, attempt, started }| {
            let span = tracing::info_span!("step", step, target_id = %target);
            work(Row { n, step: step.clone(), instance: target, started, attempt }).instrument(span)
        };
        let rows: Vec<_> = begun.into_iter().map(row).collect();
        futures::stream::iter(rows).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Does a step on one target to its end.
    async fn do_row(&self, mut row: Row) -> std::result::Result<(), Stop> {
        let deadline = self.entry.deadline(&row.step).map(|limit| Instant::now() + self.time_left(limit, row.started));
        let mut delay = self.timing.first_delay;
        let mut last = String::new();
        loop {
            let error = match self.try_step(&row, deadline, &last).await {
                Ok(()) => return Ok(()),
                Err(StepError::Fenced) => return Err(Stop::Fenced),
                Err(StepError::Fatal(reason)) => return self.fail(&row, &reason).await,
                Err(error) => error,
            };
            last = error.to_string();
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return self.fail(&row, &self.late(&row.step, &last)).await;
            }
            if matches!(error, StepError::RetryNextAttempt(_)) {
                if let Some(most) = self.entry.attempts(&row.step) {
                    if row.attempt >= most {
                        let reason = format!("it failed {} times, the last time: {last}", row.attempt);
                        return self.fail(&row, &reason).await;
                    }
                    delay = self.timing.greatest_delay * row.attempt;
                }
                row.attempt += 1;
            }
            tracing::debug!("to be tried again: {last}");
            let can_wait = deadline.is_none() && delay >= self.timing.greatest_delay;
            let park = can_wait && self.state().can_wait(row.instance);
            self.record_retry(&row, &last, park.then_some(Status::Running)).await?;
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

    /// One try of a step on a target within its deadline, and its record.
    async fn try_step(&self, row: &Row, deadline: Option<Instant>, last: &str) -> StepResult {
        let work = self.work();
        let (shared, own) = self.known(row.instance);
        let step = |target: Target| {
            let (work, shared, own) = (&work, &shared, &own);
            async move {
                self.pass(row, "before").await?;
                let own = self.entry.run(work, &target, shared, own).await?;
                self.pass(row, "after").await?;
                Ok(own)
            }
        };
        let late = || StepError::Fatal(self.late(&row.step, last));
        let own = self.with_progress(row, false, deadline, step).await.unwrap_or_else(|| Err(late()))?;
        let _turn = self.turn.lock().await;
        let mut tx = work.begin().await?;
        let mut writes = self.writes(&mut tx);
        writes.step_done(row.n, row.instance, &own).await?;
        let (last_row, targets) = self.with_own(row.instance, &own);
        let mut shared = shared;
        let ends = last_row && row.n + 1 == self.claimed.stages.len();
        if last_row {
            shared = self.entry.join(&row.step, &shared, &targets)?;
            writes.advance(row.n + 1, &shared).await?;
        }
        if ends {
            self.entry.finished(&work, writes.conn, &shared, &targets).await?;
            writes.end(Status::Done).await?;
        }
        self.commit(tx).await?;
        tracing::info!("done");
        let mut state = self.state();
        state.left.remove(&row.instance);
        state.targets.insert(row.instance, own);
        state.shared = shared;
        if last_row {
            state.position = row.n + 1;
        }
        if ends {
            state.status = Status::Done;
            self.count("done");
        }
        Ok(())
    }

    /// What the targets share, and what is known of one.
    fn known(&self, instance: InstanceId) -> (serde_json::Value, serde_json::Value) {
        let state = self.state();
        (state.shared.clone(), state.targets.get(&instance).cloned().unwrap_or_default())
    }

    /// Whether the stage is done on all targets once it is on this one, and what is known of all of them then.
    fn with_own(&self, instance: InstanceId, own: &serde_json::Value) -> (bool, Vec<crate::operations::steps::Own>) {
        let state = self.state();
        let last_row = state.left.iter().all(|left| *left == instance);
        let mut targets = state.own();
        targets.iter_mut().filter(|(target, _)| *target == instance).for_each(|(_, known)| *known = own.clone());
        (last_row, targets)
    }

    /// The undos begin: of this stage and of all before it.
    async fn fail(&self, row: &Row, reason: &str) -> std::result::Result<(), Stop> {
        tracing::warn!("failed: {reason}");
        let error = format!("{}: {reason}", row.step);
        let _turn = self.turn.lock().await;
        let mut tx = self.begin().await?;
        let lease = self.writes(&mut tx).step_failed(row.n, row.instance, reason, &error).await?;
        self.commit(tx).await?;
        *self.lease.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = lease;
        let mut state = self.state();
        state.status = Status::Undoing;
        state.position = row.n + 1;
        state.error = error;
        Err(Stop::Failed)
    }

    /// Undoes a step on one target to its end.
    async fn undo_row(&self, row: Row) -> std::result::Result<(), Stop> {
        let mut delay = self.timing.first_delay;
        let limit = self.timing.undo_deadline;
        let begun = Instant::now();
        loop {
            let reason = match self.try_undo(&row, Instant::now() + self.time_left(limit, row.started)).await {
                Ok(()) => return Ok(()),
                Err(StepError::Fenced) => return Err(Stop::Fenced),
                Err(error) => format!("undo: {error}"),
            };
            let is_late = row.started.ago + begun.elapsed() >= limit;
            let stuck = is_late && self.state().can_wait(row.instance);
            tracing::warn!(stuck, "to be tried again: {reason}");
            self.record_retry(&row, &reason, stuck.then_some(Status::Stuck)).await?;
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(self.timing.greatest_delay);
        }
    }

    /// One try of an undo on a target, and its record. A step without undo is only recorded.
    async fn try_undo(&self, row: &Row, deadline: Instant) -> StepResult {
        let work = self.work();
        let (state, mut own) = self.known(row.instance);
        if self.entry.has_undo(&row.step) {
            let undo = |target: Target| {
                let (work, state, own) = (&work, &state, &own);
                async move {
                    self.pass(row, "undo_before").await?;
                    let own = self.entry.undo(work, &target, state, own).await?;
                    self.pass(row, "undo_after").await?;
                    Ok(own)
                }
            };
            let late = || StepError::RetrySameKey("it was not done in time".to_owned());
            own = self.with_progress(row, true, Some(deadline), undo).await.unwrap_or_else(|| Err(late()))?;
        }
        let _turn = self.turn.lock().await;
        let mut tx = work.begin().await?;
        let mut writes = self.writes(&mut tx);
        writes.undo_done(row.n, row.instance, &own).await?;
        let (last_row, _) = self.with_own(row.instance, &own);
        if last_row {
            writes.advance(row.n, &state).await?;
        }
        self.commit(tx).await?;
        let mut state = self.state();
        state.left.remove(&row.instance);
        state.targets.insert(row.instance, own);
        if last_row {
            state.position = row.n;
        }
        Ok(())
    }

    /// Writes why a step or an undo is tried again. With `park` it also lets go of the operation for a while, which then has
    /// this status.
    async fn record_retry(&self, row: &Row, reason: &str, park: Option<Status>) -> std::result::Result<(), Stop> {
        let _turn = self.turn.lock().await;
        let mut tx = self.begin().await?;
        let mut writes = self.writes(&mut tx);
        writes.retry(row.n, row.instance, reason, row.attempt).await?;
        if let Some(status) = park {
            writes.park(self.timing.parked, status == Status::Stuck).await?;
        }
        self.commit(tx).await?;
        if park.is_some() { Err(Stop::Ended) } else { Ok(()) }
    }

    /// Runs a step, or an undo, on its target, and writes beside it what it says of its progress. `None`: it was not done by
    /// the deadline.
    async fn with_progress<T, F>(
        &self,
        row: &Row,
        undo: bool,
        deadline: Option<Instant>,
        step: impl FnOnce(Target) -> F,
    ) -> Option<StepResult<T>>
    where
        F: Future<Output = StepResult<T>>,
    {
        let (progress, said) = watch::channel(None);
        let (instance, attempt) = (row.instance, row.attempt);
        let target = Target { instance, step: row.step.clone(), undo, attempt, deadline, progress };
        let step = step(target);
        let bounded = async {
            match deadline {
                None => Some(step.await),
                Some(deadline) => tokio::time::timeout_at(deadline, step).await.ok(),
            }
        };
        // The step drops its sender at its end, which ends the other.
        tokio::join!(bounded, self.show_progress(row, said)).0
    }

    /// Writes what a step says of its progress, at once when the stage changes, else once a second. What cannot be written is
    /// left out: whether the claim is lost is found out by its renewal.
    async fn show_progress(&self, row: &Row, mut said: watch::Receiver<Option<v1::Progress>>) {
        let mut stage = String::new();
        let mut next_write = Instant::now();
        while said.changed().await.is_ok() {
            let Some(now) = said.borrow_and_update().clone() else { continue };
            if now.stage == stage {
                tokio::select! {
                    () = tokio::time::sleep_until(next_write) => {}
                    () = async { while said.changed().await.is_ok() {} } => return,
                }
            }
            if said.has_changed().is_err() {
                // The step is over, and its record says more.
                return;
            }
            let Some(latest) = said.borrow_and_update().clone() else { continue };
            stage.clone_from(&latest.stage);
            next_write = Instant::now() + PROGRESS_INTERVAL;
            if let Err(error) = self.write_progress(row, &latest).await {
                tracing::debug!("the progress was not written: {error}");
            }
        }
    }

    async fn write_progress(&self, row: &Row, progress: &v1::Progress) -> Result<()> {
        // The unit where there are amounts, else the stage; as `app::operations::Step` shows it.
        let word = if progress.done.is_some() { &progress.unit } else { &progress.stage };
        let json = serde_json::json!([progress.done, progress.total, word]);
        let _turn = self.turn.lock().await;
        let Some(mut tx) = self.context.store.begin_fenced(self.lease()).await? else { return Ok(()) };
        self.writes(&mut tx).progress(row.n, row.instance, &json).await?;
        self.commit(tx).await
    }

    fn step_name(&self, n: usize) -> Result<String> {
        let missing = || Error::Internal { attempt: format!("find stage {n} of the operation"), source: None };
        self.claimed.stages.get(n).cloned().ok_or_else(missing)
    }

    async fn pass(&self, row: &Row, place: &str) -> StepResult {
        let point = format!("operation.{}.{}.{place}", self.claimed.kind, row.step);
        self.points.pass(&point, row.instance).await
    }
}
