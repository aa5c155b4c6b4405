//! Takes operations from the store and runs them: several at once, those that exclude each other in the order of asking.
//!
//! It is woken by a nudge, by the end of an operation, and by one timer for what becomes due by time alone (a lease
//! that another controller let run out, the delay of a retry). A controller that starts again takes what its earlier
//! life held at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::execution::{Ending, Execution};
use super::points::Points;
use super::steps::Registered;
use super::timing::Timing;
use super::work::RunnerContext;
use crate::error::{Result, chain};
use crate::ids::OperationId;
use crate::store::operations::lease::{Claimed, known};

/// How much is done at once; what waits for an agent costs little.
const AT_ONCE: usize = 64;
/// The longest sleep: should another controller's word be lost, what it enqueued is seen after this at the latest.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// After an error of the store.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How long a shutdown waits for leases to be given up.
const SHUTDOWN: Duration = Duration::from_secs(3);

pub struct Runner {
    context: RunnerContext,
    registry: Arc<Vec<Arc<dyn Registered>>>,
    known: Vec<String>,
    timing: Timing,
    points: Points,
}

impl Runner {
    /// With the operations that this program knows.
    pub fn new(context: RunnerContext) -> Self {
        let lease = context.config.operations.lease;
        let timing = Timing { lease, renew: lease / 3, ..Timing::default() };
        Self::with(context, super::registry(), timing, Points::default())
    }

    pub(crate) fn with(
        context: RunnerContext,
        registry: Vec<Arc<dyn Registered>>,
        timing: Timing,
        points: Points,
    ) -> Self {
        let known = registry.iter().map(|entry| known(entry.kind(), entry.version())).collect();
        Self { context, registry: Arc::new(registry), known, timing, points }
    }

    /// Runs operations until `shutdown`; then lets go of those that are under way, in 3 s at most.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut nudges = self.context.nudge.subscribe();
        let mut running = JoinSet::new();
        let mut cancels: HashMap<OperationId, CancellationToken> = HashMap::new();
        let mut taken_over = false;
        if self.context.config.operations.paused {
            tracing::warn!("operations.paused is set: orders are taken, and none is begun by this controller");
        }
        loop {
            // Before the look at the store, so that a nudge that comes during it is not lost.
            nudges.mark_unchanged();
            let sleep = match self.pass(&mut taken_over, &mut running, &mut cancels, &shutdown).await {
                Ok(sleep) => sleep,
                Err(error) => {
                    tracing::error!("cannot look for operations: {}", chain(&error));
                    STORE_RETRY
                }
            };
            let due = Instant::now() + sleep;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                changed = nudges.changed() => if changed.is_err() { break },
                Some(ended) = running.join_next() => match ended {
                    Ok(id) => {
                        cancels.remove(&id);
                        // The reconcilers, too, as those of other controllers are told.
                        self.context.nudge.now();
                    }
                    // Its lease runs out, and it is taken again.
                    Err(error) => tracing::error!("the task of an operation ended: {error}"),
                },
                () = tokio::time::sleep_until(due) => {}
            }
        }
        let all = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN, all).await.is_err() {
            tracing::warn!("operations did not let go in time; their leases run out by themselves");
        }
    }

    /// Claims what can be claimed, passes on what was cancelled, and says how long nothing will become due.
    async fn pass(
        &self,
        taken_over: &mut bool,
        running: &mut JoinSet<OperationId>,
        cancels: &mut HashMap<OperationId, CancellationToken>,
        shutdown: &CancellationToken,
    ) -> Result<Duration> {
        let store = &self.context.store;
        let owner = &self.context.controller_id;
        if !*taken_over {
            store.release_own_leases(owner).await?;
            *taken_over = true;
        }
        if self.context.config.operations.paused {
            return Ok(LONGEST_SLEEP);
        }
        if !cancels.is_empty() {
            for id in store.cancelled_operations(owner).await? {
                if let Some(cancel) = cancels.get(&id) {
                    cancel.cancel();
                }
            }
        }
        while running.len() < AT_ONCE && !shutdown.is_cancelled() {
            let Some(claimed) = store.claim_operation(owner, self.timing.lease, &self.known).await? else { break };
            let Some(entry) = self.entry(&claimed) else { break };
            self.context.changes.bump();
            let cancel = CancellationToken::new();
            cancels.insert(claimed.lease.id, cancel.clone());
            let ending = Ending { cancel, shutdown: shutdown.clone() };
            running.spawn(self.execute(claimed, entry, ending));
        }
        if running.len() >= AT_ONCE {
            // The end of one of them wakes us.
            return Ok(LONGEST_SLEEP);
        }
        let due = store.next_due(&self.known).await?;
        Ok(due.map_or(LONGEST_SLEEP, |due| due.min(LONGEST_SLEEP)))
    }

    fn entry(&self, claimed: &Claimed) -> Option<Arc<dyn Registered>> {
        let entry = |entry: &&Arc<dyn Registered>| entry.kind() == claimed.kind && entry.version() == claimed.version;
        self.registry.iter().find(entry).cloned()
    }

    fn execute(
        &self,
        claimed: Claimed,
        entry: Arc<dyn Registered>,
        ending: Ending,
    ) -> impl Future<Output = OperationId> + Send + 'static {
        let id = claimed.lease.id;
        let targets: Vec<String> = claimed.targets.keys().map(ToString::to_string).collect();
        let span = tracing::info_span!(
            "operation",
            operation_id = %id,
            kind = claimed.kind,
            instance_id = targets.join(","),
            request_id = claimed.request_id,
        );
        let execution = Execution::new(self.context.clone(), entry, claimed, self.timing, self.points.clone());
        async move {
            execution.run(ending).await;
            id
        }
        .instrument(span)
    }
}

#[cfg(test)]
mod tests;
