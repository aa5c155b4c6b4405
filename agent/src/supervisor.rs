//! The one task that owns the engine. Everybody else sends it a request and waits.
//!
//! ```text
//! NEW -> (install) BUILDING -> (start) STARTING -> HEALTHY <-> BLOCKED
//!                                  ^                  | the process ends
//!                                  +---- delay ---- CRASHED          (stop) SHUTDOWN
//! ```
//! Whether the engine is to run is a file (`desired`), so that an agent that is started anew knows. The agent's own end never ends
//! the engine. Its log says how long the engine itself took to be initialised, to answer and to stop.
//!
//! A start is begun here and then asked for its end ([`starting`]), so that the task hears requests meanwhile. One whose
//! volume is over-full is stopped until there is room ([`crate::volume`]).

mod configuration;
mod empty;
mod handle;
mod parameter_record;
mod parameters;
mod repair;
mod room;
mod starting;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{info, warn};
use trove_proto::v1::ServiceState;
use trove_strategy::{
    Datastore, EngineError, FirstStart, Health, Kind, RealHost, Settings, Site, StartMode, StartSpec, failpoint,
};

use crate::assignment::{Assigned, AssignmentStore};
use crate::durable::Durable;
use crate::output_log::OutputLog;
use crate::process::{Mark, Process, Signs};
use crate::volume::Room;
pub use handle::{EngineStatus, SupervisedEngine, Supervisor};
use handle::{Reply, Request};
use parameter_record::{PARAMETER_RECORD, ParameterRecord};
use repair::REPAIRED;
use room::measured;
pub use room::volume_bytes;
use starting::Starting;

const DESIRED: &str = "desired";
const MARK: &str = "engine.json";
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(30);
/// How long what is left of an engine that was stopped may take to end by itself.
const DYING: Duration = Duration::from_secs(10);
const BLOCKED_AFTER: u32 = 3;
/// How long a start waits for the first measure of the volume.
const FIRST_MEASURE: Duration = Duration::from_secs(10);

/// What the task works with.
pub struct Parts {
    pub datastore: Arc<dyn Datastore>,
    /// Where the engine lives.
    pub site: Site,
    /// The hands, which also start processes.
    pub host: RealHost,
    /// The agent's own files.
    pub files: Durable,
    /// The assignment.
    pub assignments: Arc<AssignmentStore>,
    /// Where the engine's output goes.
    pub log: Arc<OutputLog>,
    /// Bytes in use on the volume, as they are measured.
    pub used: watch::Receiver<Option<u64>>,
}

impl Parts {
    /// Where the engine lives, with what only the assignment in force says of it.
    fn site(&self) -> Site {
        self.assignments.complete(&self.site)
    }

    fn start_spec(&self, settings: &Settings, mode: StartMode) -> StartSpec {
        self.datastore.engine().start_spec(&self.site(), settings, mode)
    }
}

struct Owner {
    parts: Parts,
    signs: Signs,
    process: Option<Process>,
    status: watch::Sender<EngineStatus>,
    wanted: bool,
    /// Whether a start was ever asked for. From then on the data may be somebody's.
    has_served: bool,
    delay: Duration,
    restart_at: Option<Instant>,
    healthy_since: Option<Instant>,
    misses: u32,
    repaired_at: Option<SystemTime>,
    /// The start that is under way.
    starting: Option<Starting>,
    /// What the volume has room for, and whether the running engine has been told.
    room: Room,
    room_is_told: bool,
    parameter_record: ParameterRecord,
    /// The parameters that were written last, and those with which the start was begun that is under way.
    configured: Option<BTreeMap<String, Value>>,
    started_with: Option<BTreeMap<String, Value>>,
}

/// Starts the task. It adopts an engine that runs, and starts one that should. An adopted engine has been asked once
/// by the time this returns: nobody is told that it starts, when it has been answering all the while.
///
/// # Errors
/// A file of the agent's cannot be read, or the process cannot be watched.
pub async fn spawn(parts: Parts) -> Result<Supervisor> {
    let desired = parts.files.read_json::<bool>(DESIRED)?;
    // What it said is lost with a damaged file. It was begun, though: it runs, since one that a tenant needs and that is
    // down does more harm than one that was stopped and is up, which can be stopped again.
    let desired = desired.or_else(|| parts.files.was_set_aside(DESIRED).then_some(true));
    let wanted = desired.unwrap_or(false);
    let repaired_at = parts.files.read_json(REPAIRED)?;
    let parameter_record = parts.files.read_json::<ParameterRecord>(PARAMETER_RECORD)?.unwrap_or_default();
    let service = if desired.is_some() { ServiceState::Shutdown } else { ServiceState::New };
    let (status, watched) = watch::channel(EngineStatus { service, detail: String::new(), health: None });
    let spec = parts.start_spec(&Settings::default(), StartMode::Normal);
    let signs = Signs::new(&parts.host, &parts.site.data, &parts.log.path());
    let mark = match parts.files.read_json::<Mark>(MARK)? {
        Some(mark) if signs.fit(mark)? => Some(mark),
        _ => signs.started(&spec)?,
    };
    let process = match mark {
        Some(mark) => Process::adopt(mark)?,
        None => None,
    };
    let process = match process {
        // No start was asked for yet: it is of an initialisation that did not end, which is made once more.
        Some(mut unfinished) if desired.is_none() => {
            unfinished.kill().await;
            None
        }
        process => process.map(|process| process.trusted_by(&parts.host)),
    };
    let (requests, inbox) = mpsc::channel(32);
    let mut owner = Owner {
        parts,
        signs,
        process,
        status,
        wanted,
        has_served: desired.is_some(),
        delay: FIRST_DELAY,
        restart_at: None,
        healthy_since: None,
        misses: 0,
        repaired_at,
        starting: None,
        room: Room::Enough,
        // An adopted engine may have been told otherwise by an earlier agent.
        room_is_told: false,
        parameter_record,
        configured: None,
        started_with: None,
    };
    if let Some(process) = &owner.process {
        info!(pid = process.mark.pid, "the engine runs already and is adopted");
        owner.say(ServiceState::Starting, "");
        owner.probe().await;
    } else if wanted {
        owner.say(ServiceState::Starting, "");
        owner.restart_at = Some(Instant::now());
    }
    tokio::spawn(owner.run(inbox));
    Ok(Supervisor { requests, status: watched })
}

impl Owner {
    async fn run(mut self, mut inbox: mpsc::Receiver<Request>) {
        let mut assigned = self.parts.assignments.assigned();
        let mut used = self.parts.used.clone();
        let mut probe = tokio::time::interval(probe_interval(&assigned));
        probe.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (restart, ask) = (self.restart_at, self.starting.as_ref().map(Starting::next));
            tokio::select! {
                request = inbox.recv() => match request {
                    Some(request) => self.serve(request).await,
                    None => return,
                },
                how = ended(&mut self.process) => self.process_ended(&how).await,
                () = at(ask) => self.ask().await,
                () = at(restart) => self.start_again().await,
                _ = probe.tick(), if self.process.is_some() && self.starting.is_none() => self.probe().await,
                () = measured(&mut used) => self.look_at_volume().await,
                changed = assigned.changed() => {
                    if changed.is_err() { return }
                    let period = probe_interval(&assigned);
                    if period != probe.period() {
                        probe = tokio::time::interval(period);
                    }
                    self.look_at_volume().await;
                }
            }
        }
    }

    fn say(&self, service: ServiceState, detail: &str) {
        self.status.send_if_modified(|status| {
            let changed = status.service != service || status.detail != detail;
            status.service = service;
            detail.clone_into(&mut status.detail);
            changed
        });
    }

    /// Says what is waited for, in the state that was said last.
    fn say_why(&self, detail: &str) {
        let service = self.status.borrow().service;
        self.say(service, detail);
    }

    async fn serve(&mut self, request: Request) {
        // Whoever asked may have gone; what was asked for has happened all the same.
        match request {
            Request::Initialise(reply) => {
                let done = self.initialise().await;
                let _ = reply.send(done);
            }
            Request::MakeEmpty(reply) => {
                let done = self.make_empty().await;
                let _ = reply.send(done);
            }
            Request::Configure(reply) => {
                let done = self.configure().await;
                let _ = reply.send(done);
            }
            Request::Start(reply) => self.start_and_keep(reply).await,
            Request::Stop(reply) => {
                let done = self.stop_and_keep().await;
                let _ = reply.send(done);
            }
            Request::StopForAWhile(reply) => {
                self.stop().await;
                let _ = reply.send(Ok(()));
            }
            Request::Apply(reply) => {
                let done = self.apply().await;
                // What it could not be told is told with the next look at the volume.
                self.room_is_told &= done.is_ok();
                let _ = reply.send(done);
            }
        }
    }

    async fn initialise(&mut self) -> Result<(), EngineError> {
        if self.process.is_some() {
            return Ok(());
        }
        self.say(ServiceState::Building, "");
        let engine = self.parts.datastore.engine();
        let begun = Instant::now();
        let first = engine.initialise(&self.parts.site).await?;
        info!(elapsed_ms = millis(begun), "the engine was initialised");
        if first == FirstStart::Private {
            self.configure().await?;
            pass("agent.prepare.before_secure")?;
            let secured = self.secure().await;
            // Also one that was not: the next try would take the private server for the one that serves.
            self.stop().await;
            secured?;
            pass("agent.prepare.after_secure")?;
        }
        Ok(())
    }

    async fn secure(&mut self) -> Result<(), EngineError> {
        self.start_private().await?;
        self.parts.datastore.engine().secure(&self.parts.site).await
    }

    fn want(&mut self, running: bool) -> Result<(), EngineError> {
        let written = self.parts.files.write_json(DESIRED, &running);
        // Also where it may not have been written.
        self.has_served = true;
        written.map_err(|error| EngineError::new(Kind::Transient, format!("{error:#}")))?;
        self.wanted = running;
        Ok(())
    }

    async fn stop_and_keep(&mut self) -> Result<(), EngineError> {
        self.want(false)?;
        self.restart_at = None;
        self.stop().await;
        Ok(())
    }

    async fn stop(&mut self) {
        let begun = Instant::now();
        self.give_up_start("the engine was stopped meanwhile");
        // How it is stopped follows from no parameter.
        let spec = self.parts.start_spec(&Settings::default(), StartMode::Normal);
        if let Some(mut process) = self.process.take() {
            process.stop(spec.stop, spec.stop_deadline).await;
            info!(elapsed_ms = millis(begun), "the engine was stopped");
        }
        self.end_earlier_life(DYING).await;
        self.healthy_since = None;
        let is_halted = self.wanted && self.room == Room::Over;
        let why = if is_halted { self.room_words() } else { String::new() };
        self.say(ServiceState::Shutdown, &why);
    }

    fn healthy(&mut self, health: Health) {
        self.misses = 0;
        self.healthy_since.get_or_insert_with(Instant::now);
        self.record_answered();
        let amiss = [self.room_words(), self.taken_back_fault()];
        let detail = amiss.into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" ");
        self.status.send_if_modified(|status| {
            let next = EngineStatus { service: ServiceState::Healthy, detail, health: Some(health) };
            let changed = *status != next;
            *status = next;
            changed
        });
    }

    async fn probe(&mut self) {
        match self.parts.datastore.engine().probe(&self.parts.site).await {
            Ok(health) => self.healthy(health),
            Err(error) => {
                self.misses += 1;
                if self.misses == BLOCKED_AFTER {
                    warn!(error = error.chain(), "the engine runs and does not answer");
                }
                if self.misses >= BLOCKED_AFTER {
                    self.say(ServiceState::Blocked, &error.chain());
                }
                if self.misses >= BLOCKED_AFTER && error.kind() == Kind::LockedOut && self.may_repair() {
                    self.let_in_again(&error).await;
                }
            }
        }
    }

    async fn process_ended(&mut self, how: &str) {
        self.process = None;
        let said = self.parts.log.last_words();
        if self.starting.as_mut().is_some_and(|starting| starting.is_made_again(how)) {
            warn!(how, "the engine was killed while it started, and is started again");
            return;
        }
        if self.starting.is_some() {
            let error = EngineError::new(Kind::Fatal, format!("the engine did not start ({how}): {said}"));
            return self.start_failed(error).await;
        }
        warn!(how, "the engine ended by itself");
        self.say(ServiceState::Crashed, &format!("the engine ended by itself ({how}): {said}"));
        if self.wanted {
            self.plan_restart();
        }
    }

    fn plan_restart(&mut self) {
        let well = self.healthy_since.take().is_some_and(|since| since.elapsed() > Duration::from_secs(60));
        self.delay = if well { FIRST_DELAY } else { (self.delay * 2).min(LAST_DELAY) };
        self.restart_at = Some(Instant::now() + self.delay);
    }
}

/// How long ago that was, for the log.
fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn probe_interval(assigned: &watch::Receiver<Assigned>) -> Duration {
    match assigned.borrow().specification.probe_interval_s {
        0 => Duration::from_secs(5),
        seconds => Duration::from_secs(seconds.into()),
    }
}

async fn ended(process: &mut Option<Process>) -> String {
    match process {
        Some(process) => process.ended().await,
        None => std::future::pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// A failpoint in the words of an engine.
pub(crate) fn pass(name: &str) -> Result<(), EngineError> {
    failpoint::pass(name).map_err(|error| EngineError::new(Kind::Transient, error.to_string()))
}
