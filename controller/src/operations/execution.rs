//! One operation under one claim: its stages, and their undos when a step fails on one of its targets.
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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{counter, histogram};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Changes;
use super::points::Points;
use super::steps::{Own, Registered};
use super::timing::Timing;
use super::work::{RunnerContext, Work};
use crate::error::{Error, Result, chain};
use crate::ids::InstanceId;
use crate::store::operations::Status;
use crate::store::operations::lease::{Claimed, Lease, Renewal};
use crate::store::operations::writes::Writes;
use crate::store::sql::Transaction;

mod stage;

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
    /// A step has failed, and the undos are next.
    Failed,
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
    /// Whoever writes under the claim beside the steps, records one, raises the fence, or ends the operation: one at a time,
    /// so that nobody meets a record, a fence or an end that this execution has committed and not heard of yet.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// Tells of a change when it is dropped.
struct NotifyOnDrop<'a>(&'a Changes);

impl Drop for NotifyOnDrop<'_> {
    fn drop(&mut self) {
        self.0.bump();
    }
}

/// Where an execution stands.
struct State {
    status: Status,
    position: usize,
    /// What the targets share.
    shared: Value,
    /// What is known of each.
    targets: BTreeMap<InstanceId, Value>,
    /// On which the stage at hand is not done, or not undone.
    left: BTreeSet<InstanceId>,
    /// Those of them that are tried on slowly and need not be watched.
    patient: BTreeSet<InstanceId>,
    error: String,
}

impl State {
    fn own(&self) -> Vec<Own> {
        self.targets.iter().map(|(target, own)| (*target, own.clone())).collect()
    }

    /// `target` can wait for long. Whether all that is left can.
    fn can_wait(&mut self, target: InstanceId) -> bool {
        self.patient.insert(target);
        self.left.is_subset(&self.patient)
    }
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
        let state = Mutex::new(State {
            status: claimed.status,
            position: claimed.position,
            shared: claimed.state.clone(),
            targets: claimed.targets.clone(),
            left: BTreeSet::new(),
            patient: BTreeSet::new(),
            error: claimed.error.clone().unwrap_or_default(),
        });
        let turn = tokio::sync::Mutex::default();
        Self { context, entry, claimed, begun: Instant::now(), timing, points, lease, turn, state }
    }

    /// Runs it until it has ended or must be let go of.
    pub(super) async fn run(self, ending: Ending) {
        let stop = tokio::select! {
            biased;
            () = ending.cancel.cancelled() => Stop::Cancelled,
            () = ending.shutdown.cancelled() => Stop::Shutdown,
            stop = self.keep_lease() => stop,
            stop = self.advance() => stop,
        };
        let written = match stop {
            Stop::Ended | Stop::Failed => Ok(()),
            Stop::Cancelled => {
                tracing::info!("cancelled");
                self.count("cancelled");
                // Before the end is written, so that whoever claims it after a kill tells them, too.
                for target in self.claimed.targets.keys() {
                    self.context.agents.cancel(*target, self.claimed.lease.id);
                }
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
        write(&mut self.writes(&mut tx)).await?;
        self.commit(tx).await
    }

    fn lease(&self) -> Lease {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it stands; never held over an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writes<'c>(&self, tx: &'c mut Transaction) -> Writes<'c> {
        Writes { conn: tx, id: self.claimed.lease.id }
    }

    async fn begin(&self) -> std::result::Result<Transaction, Stop> {
        self.context.store.begin_fenced(self.lease()).await?.ok_or(Stop::Lost)
    }

    async fn commit(&self, tx: Transaction) -> Result<()> {
        // Also when this is dropped while the commit is under way, by a cancellation: it may have taken effect.
        let _told = NotifyOnDrop(&self.context.changes);
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
                Ok(Ok(Renewal::Cancelled)) => return Stop::Cancelled,
                Ok(Ok(Renewal::Held)) => held_until = begun + self.timing.lease,
                Ok(Ok(Renewal::Lost)) | Err(_) => return Stop::Lost,
                Ok(Err(error)) => tracing::error!("{}", chain(&error)),
            }
        }
    }

    async fn advance(&self) -> Stop {
        if self.claimed.cancel {
            return Stop::Cancelled;
        }
        loop {
            let (status, position) = {
                let state = self.state();
                (state.status, state.position)
            };
            let went = match status {
                Status::Undoing | Status::Stuck => match position.checked_sub(1) {
                    Some(n) => self.undo_stage(n).await,
                    None => self.end_failed().await,
                },
                _ => self.do_stage(position).await,
            };
            match went {
                Ok(()) if self.state().status.is_final() => return Stop::Ended,
                Ok(()) | Err(Stop::Failed) => {}
                Err(stop) => return stop,
            }
        }
    }

    async fn end_failed(&self) -> std::result::Result<(), Stop> {
        let error = self.state().error.clone();
        let targets: Vec<InstanceId> = self.claimed.targets.keys().copied().collect();
        let _turn = self.turn.lock().await;
        let mut tx = self.begin().await?;
        self.entry.failed(&self.work(), &mut tx, &targets, &error).await?;
        self.writes(&mut tx).end(Status::Failed).await?;
        self.commit(tx).await?;
        self.count("failed");
        self.state().status = Status::Failed;
        Ok(())
    }

    /// Counts the end of the operation.
    fn count(&self, how: &'static str) {
        let kind = self.entry.kind();
        counter!("trove_operations_ended_total", "kind" => kind, "how" => how).increment(1);
        histogram!("trove_operation_duration_seconds", "kind" => kind).record(self.begun.elapsed());
    }

    fn work(&self) -> Work {
        Work { context: self.context.clone(), lease: self.lease(), user_id: self.claimed.user_id.clone() }
    }
}
