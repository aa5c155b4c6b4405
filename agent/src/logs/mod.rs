//! Ships the engine's log of writes: each piece that is closed goes into the storage of backups, compressed and encrypted, and
//! only then may the engine forget it.
//!
//! ```text
//! keep -> LogState (how far is it stored?) -> LogBegin -> { piece -> seal -> grant -> put -> LogStored -> the engine forgets } ...
//! ```
//! Nothing of it is remembered here: where the log goes on says the controller's store, and what is kept says the engine. So a
//! death between any two of these steps repeats a step at most, and loses none. What was written and not recorded lies
//! under the name of a run, which is one life of the agent within one container, and goes with that.

mod desk;
pub(crate) mod sealed;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use hyper::body::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};
use trove_proto::backup::segment_name;
use trove_proto::v1;
use trove_proto::v1::log_question::Kind as Question;
use trove_strategy::{Datastore, EngineError, Kind, LogPiece, Logs, Role, Site};

use crate::assignment::AssignmentStore;
use crate::backup::Storage as _;
use crate::dial::Backoff;
use crate::objects::Objects;
use crate::objects::granted::{AskGrants, RunObjects};
use crate::supervisor::{EngineStatus, pass};
pub use desk::Desk;

/// What counts as much within an interval, bytes.
const MUCH: u64 = 1 << 20;
/// Trouble is told once nothing was stored for so many of the longer intervals, and some seconds.
const LATE: u32 = 3;
const SOME_SECONDS: Duration = Duration::from_secs(5);

/// What the task works with.
pub struct Shipper {
    pub datastore: Arc<dyn Datastore>,
    pub site: Site,
    pub status: watch::Receiver<EngineStatus>,
    pub assignments: Arc<AssignmentStore>,
    pub objects: Arc<Objects>,
    pub desk: Arc<Desk>,
    /// Why the log is not stored; empty while it is.
    pub trouble: watch::Sender<String>,
}

/// Where the log is, and where it goes.
struct Place {
    container: v1::LogContainer,
    from: String,
}

/// Access to objects of a container.
struct ContainerGrants<'a> {
    desk: &'a Desk,
    container: &'a str,
}

#[async_trait]
impl AskGrants for ContainerGrants<'_> {
    async fn ask(&self, run: &str, objects: Vec<v1::ObjectNeed>) -> Result<Vec<v1::ObjectGrant>, v1::Error> {
        let (container, run) = (self.container.to_owned(), run.to_owned());
        self.desk.grants(v1::LogGrant { container, run, objects }).await
    }
}

fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl Shipper {
    /// Ships for as long as the assignment says so and the engine answers, and has the engine keep nothing otherwise.
    pub async fn run(mut self) {
        let datastore = self.datastore.clone();
        let Some(logs) = datastore.backup().and_then(trove_strategy::Backup::logs) else { return };
        let mut assigned = self.assignments.assigned();
        let mut run = Run::new();
        let mut pauses = Backoff::new(rand::random::<u64>());
        loop {
            // Cannot fail: the sender lives as long as the agent.
            let _ = self.status.wait_for(is_primary).await;
            let wanted = assigned.borrow_and_update().specification.log;
            let (mut status, mut changes) = (self.status.clone(), assigned.clone());
            let ended = async {
                tokio::select! {
                    _ = status.wait_for(|status| !is_primary(status)) => {}
                    _ = changes.wait_for(|now| now.specification.log != wanted) => {}
                }
            };
            let error = tokio::select! {
                () = ended => None,
                error = self.serve(logs, wanted, &mut run, &mut pauses) => Some(error),
            };
            if let Some(error) = error {
                warn!(error = error.chain(), "the log of writes is not shipped");
                run.tell_trouble(&self.trouble, &error.chain());
                tokio::time::sleep(pauses.next_delay()).await;
            }
        }
    }

    /// Works until there is an error.
    async fn serve(
        &self,
        logs: &dyn Logs,
        wanted: Option<v1::LogShipping>,
        run: &mut Run,
        pauses: &mut Backoff,
    ) -> EngineError {
        let Some(cadence) = wanted else {
            run.is_shipping = false;
            self.trouble.send_replace(String::new());
            return match logs.forget(&self.site).await {
                Ok(()) => std::future::pending().await,
                Err(error) => error,
            };
        };
        if !run.is_shipping {
            run.is_shipping = true;
            run.stored(&self.trouble);
        }
        match self.ship(logs, cadence, run, pauses).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn ship(
        &self,
        logs: &dyn Logs,
        cadence: v1::LogShipping,
        run: &mut Run,
        pauses: &mut Backoff,
    ) -> Result<std::convert::Infallible, EngineError> {
        let interval = Duration::from_secs(cadence.interval_s.max(1).into());
        let idle = Duration::from_secs(cadence.idle_interval_s.into()).max(interval);
        run.late = idle * LATE + SOME_SECONDS;
        let mut place = self.begin(logs).await?;
        let mut covered_at = None::<Instant>;
        loop {
            self.drain(logs, &mut place, run).await?;
            let is_due = covered_at.is_none_or(|at| at.elapsed() + interval / 2 > idle);
            if is_due || logs.open_bytes(&self.site).await? > MUCH {
                // Whatever was acknowledged before this is in what is closed afterwards.
                let now = SystemTime::now();
                logs.close(&self.site).await?;
                self.drain(logs, &mut place, run).await?;
                let covered = v1::LogCovered { container: place.container.container.clone(), time_us: micros(now) };
                place.container = self.desk.container(Question::Covered(covered)).await?;
                covered_at = Some(Instant::now());
                run.stored(&self.trouble);
                pauses.reset();
            }
            tokio::time::sleep(interval).await;
        }
    }

    /// Finds where the log goes on: at the end of what is stored, where the engine still has that.
    async fn begin(&self, logs: &dyn Logs) -> Result<Place, EngineError> {
        let mut kept = logs.keep(&self.site).await?;
        let until = self.desk.container(Question::State(v1::LogState {})).await?.until;
        let from = match until {
            until if until.is_empty() => kept,
            until => match logs.piece(&self.site, &until).await {
                Err(error) if error.kind() == Kind::Gone => {
                    // What was kept may have been given up with that.
                    kept = logs.keep(&self.site).await?;
                    warn!(error = error.chain(), "the log has a gap, from {until} to {kept}");
                    kept
                }
                piece => piece.map(|_| until)?,
            },
        };
        let container = self.desk.container(Question::Begin(v1::LogBegin { from: from.clone() })).await?;
        info!("the log of writes is shipped from {from} on");
        Ok(Place { container, from })
    }

    /// Ships every piece that is closed.
    async fn drain(&self, logs: &dyn Logs, place: &mut Place, run: &mut Run) -> Result<(), EngineError> {
        while let Some(piece) = logs.piece(&self.site, &place.from).await? {
            let until = piece.until.clone();
            place.container = self.send(piece, &place.container, run).await?;
            place.from.clone_from(&until);
            pass("agent.logs.recorded")?;
            logs.stored(&self.site, &until).await?;
        }
        Ok(())
    }

    async fn send(
        &self,
        piece: LogPiece,
        container: &v1::LogContainer,
        run: &mut Run,
    ) -> Result<v1::LogContainer, EngineError> {
        let data_bytes = piece.bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1) as u64;
        let (bytes, sum) = sealed::seal(piece.bytes, container.recipients.clone()).await?;
        let grants = ContainerGrants { desk: &self.desk, container: &container.container };
        let (name, object) = run.next(&container.container);
        let storage = RunObjects::new(&self.objects, &grants, &name);
        let size = bytes.len() as u64;
        let object_name = segment_name(object as usize);
        let put = storage.put(&object_name, Bytes::from(bytes));
        tokio::pin!(put);
        loop {
            tokio::select! {
                stored = &mut put => break stored?,
                () = tokio::time::sleep(SOME_SECONDS) => {
                    if let Some(why) = storage.trouble() {
                        run.tell_trouble(&self.trouble, &why);
                    }
                }
            }
        }
        pass("agent.logs.stored")?;
        let stored = v1::LogStored {
            container: container.container.clone(),
            run: name.clone(),
            object,
            from: piece.from,
            until: piece.until,
            bytes: size,
            sum: sum.as_bytes().to_vec(),
            data_bytes,
        };
        self.desk.container(Question::Stored(stored)).await
    }
}

fn is_primary(status: &EngineStatus) -> bool {
    let role = status.health.as_ref().map(|health| health.role);
    status.service == v1::ServiceState::Healthy && role == Some(Role::Primary)
}

/// One life of the agent: names of objects, and since when none was stored.
struct Run {
    /// Of the container. It belongs to that one alone: whoever restores finds the container by the run.
    name: String,
    container: String,
    objects: u32,
    stored: Instant,
    since: SystemTime,
    /// After this long nothing was stored for too long.
    late: Duration,
    is_shipping: bool,
}

impl Run {
    fn new() -> Self {
        let (name, container) = (String::new(), String::new());
        let (stored, since) = (Instant::now(), SystemTime::now());
        Self { name, container, objects: 0, stored, since, late: SOME_SECONDS, is_shipping: false }
    }

    /// The name of the run in the container, and the number of its next object.
    fn next(&mut self, container: &str) -> (String, u32) {
        if self.container != container {
            (self.name, self.objects) = (hex::encode(rand::random::<[u8; 16]>()), 0);
            container.clone_into(&mut self.container);
        }
        let number = self.objects;
        self.objects += 1;
        (self.name.clone(), number)
    }

    fn stored(&mut self, trouble: &watch::Sender<String>) {
        (self.stored, self.since) = (Instant::now(), SystemTime::now());
        trouble.send_replace(String::new());
    }

    /// Says what is in the way, once that lasts.
    fn tell_trouble(&self, trouble: &watch::Sender<String>, why: &str) {
        if self.stored.elapsed() > self.late {
            let since = humantime::format_rfc3339_seconds(self.since);
            trouble.send_replace(format!("the log of writes has not been stored since {since}: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_writes_to_one_container_alone() {
        let mut run = Run::new();
        let ((one, first), (again, second)) = (run.next("a"), run.next("a"));
        assert_eq!((one.len(), again == one, first, second), (32, true, 0, 1));
        let (other, number) = run.next("b");
        assert!(other != one && number == 0, "{other} {number}");
        assert_ne!(run.next("a").0, one, "an object would have a name that is taken");
    }
}
