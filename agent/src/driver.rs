//! The one task that owns the engine. Everybody else sends it a request and waits.
//!
//! ```text
//! NEW -> (install) BUILDING -> (start) STARTING -> HEALTHY <-> BLOCKED
//!                                  ^                  | the process ends
//!                                  +---- delay ---- CRASHED          (stop) SHUTDOWN
//! ```
//! Whether the engine is to run is a file (`desired`), so that an agent that is started anew knows. The agent's own end never ends
//! the engine. Its log says how long the engine itself took to be initialised, to answer and to stop.

mod repair;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};
use trove_proto::v1::ServiceState;
use trove_strategy::{Datastore, EngineError, FirstStart, Health, Kind, RealHost, Site, StartMode, failpoint};

use crate::durable::Durable;
use crate::process::{self, Mark, Process};
use crate::settings::{Keeper, engine_settings};

const DESIRED: &str = "desired";
const MARK: &str = "engine.json";
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_millis(30);
const BLOCKED_AFTER: u32 = 3;
const LOG: &str = "engine.log";

/// What the engine is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineStatus {
    /// In the words of the wire.
    pub service: ServiceState,
    /// Why, for one that is not well.
    pub detail: String,
    /// Its last answer.
    pub health: Option<Health>,
}

type Reply = oneshot::Sender<Result<(), EngineError>>;

enum Request {
    Initialise(Reply),
    Configure(Reply),
    Start(Reply),
    Stop(Reply),
    StopForAWhile(Reply),
    Apply(Reply),
}

/// The way to the task. Cheap to clone.
#[derive(Clone)]
pub struct Driver {
    requests: mpsc::Sender<Request>,
    status: watch::Receiver<EngineStatus>,
}

impl Driver {
    /// What the engine is doing, and every change of it.
    pub fn status(&self) -> watch::Receiver<EngineStatus> {
        self.status.clone()
    }

    async fn ask(&self, request: impl FnOnce(Reply) -> Request) -> Result<(), EngineError> {
        let gone = || EngineError::new(Kind::Transient, "the agent is about to end");
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Makes the data directory, with the private first start where the engine needs one.
    ///
    /// # Errors
    /// The strategy's.
    pub async fn initialise(&self) -> Result<(), EngineError> {
        self.ask(Request::Initialise).await
    }

    /// Writes the configuration of the assignment in force.
    ///
    /// # Errors
    /// The strategy's.
    pub async fn configure(&self) -> Result<(), EngineError> {
        self.ask(Request::Configure).await
    }

    /// Starts the engine, or finds it running, and waits until it answers. From now on it is kept running.
    ///
    /// # Errors
    /// It ended or did not answer in its time: with the end of its log.
    pub async fn start(&self) -> Result<(), EngineError> {
        self.ask(Request::Start).await
    }

    /// Stops the engine and keeps it stopped.
    ///
    /// # Errors
    /// The wish cannot be written down.
    pub async fn stop(&self) -> Result<(), EngineError> {
        self.ask(Request::Stop).await
    }

    /// Stops the engine, which stays wanted: a crash of the agent now ends with a running engine.
    ///
    /// # Errors
    /// None of its own.
    pub async fn stop_for_a_while(&self) -> Result<(), EngineError> {
        self.ask(Request::StopForAWhile).await
    }

    /// Takes up a changed assignment on the running engine.
    ///
    /// # Errors
    /// The strategy's.
    pub async fn apply(&self) -> Result<(), EngineError> {
        self.ask(Request::Apply).await
    }
}

/// What the task works with.
pub struct Parts {
    /// The strategy.
    pub datastore: Arc<dyn Datastore>,
    /// Where the engine lives.
    pub site: Site,
    /// The hands, which also start processes.
    pub host: RealHost,
    /// The agent's own files.
    pub files: Durable,
    /// The assignment.
    pub keeper: Arc<Keeper>,
    /// Where the engine's output goes.
    pub log_dir: PathBuf,
}

struct Owner {
    parts: Parts,
    process: Option<Process>,
    status: watch::Sender<EngineStatus>,
    wanted: bool,
    delay: Duration,
    restart_at: Option<Instant>,
    healthy_since: Option<Instant>,
    misses: u32,
    repaired_at: Option<Instant>,
}

/// Starts the task. It adopts an engine that runs, and starts one that should. An adopted engine has been asked once
/// by the time this returns: nobody is told that it starts, when it has been answering all the while.
///
/// # Errors
/// A file of the agent's is damaged, or the process cannot be watched.
pub async fn spawn(parts: Parts) -> Result<Driver> {
    let wanted = parts.files.read_json(DESIRED)?.unwrap_or(false);
    let begun = parts.files.read_json::<bool>(DESIRED)?.is_some();
    let service = if begun { ServiceState::Shutdown } else { ServiceState::New };
    let (status, watched) = watch::channel(EngineStatus { service, detail: String::new(), health: None });
    let spec = parts.datastore.engine().start_spec(&parts.site, StartMode::Normal);
    let mark = parts.files.read_json::<Mark>(MARK)?.filter(|mark| mark.runs()).or_else(|| process::started_by(&spec));
    let process = match mark {
        Some(mark) => Process::adopt(mark)?,
        None => None,
    };
    let (requests, inbox) = mpsc::channel(32);
    let mut owner = Owner {
        parts,
        process,
        status,
        wanted,
        delay: FIRST_DELAY,
        restart_at: None,
        healthy_since: None,
        misses: 0,
        repaired_at: None,
    };
    if let Some(process) = &owner.process {
        info!(pid = process.mark.pid, "the engine runs already and is adopted");
        owner.say(ServiceState::Starting, "");
        owner.probe().await;
    } else if wanted {
        owner.restart_at = Some(Instant::now());
    }
    tokio::spawn(owner.run(inbox));
    Ok(Driver { requests, status: watched })
}

impl Owner {
    async fn run(mut self, mut inbox: mpsc::Receiver<Request>) {
        let mut assigned = self.parts.keeper.assigned();
        let mut probe = tokio::time::interval(probe_interval(&assigned));
        probe.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let restart = self.restart_at;
            tokio::select! {
                request = inbox.recv() => match request {
                    Some(request) => self.serve(request).await,
                    None => return,
                },
                how = ended(&mut self.process) => self.crashed(&how),
                () = at(restart) => self.start_again().await,
                _ = probe.tick(), if self.process.is_some() => self.probe().await,
                changed = assigned.changed() => {
                    if changed.is_err() { return }
                    let period = probe_interval(&assigned);
                    if period != probe.period() {
                        probe = tokio::time::interval(period);
                    }
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

    async fn serve(&mut self, request: Request) {
        // Whoever asked may have gone; what was asked for has happened all the same.
        match request {
            Request::Initialise(reply) => {
                let done = self.initialise().await;
                let _ = reply.send(done);
            }
            Request::Configure(reply) => {
                let done = self.configure().await;
                let _ = reply.send(done);
            }
            Request::Start(reply) => {
                let done = self.start_and_keep().await;
                let _ = reply.send(done);
            }
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
            self.start(StartMode::Private).await?;
            self.parts.datastore.engine().secure(&self.parts.site).await?;
            self.stop().await;
            pass("agent.prepare.after_secure")?;
        }
        Ok(())
    }

    async fn configure(&mut self) -> Result<(), EngineError> {
        let specification = self.parts.keeper.assigned().borrow().specification.clone();
        let settings = engine_settings(&specification)?;
        crate::certificate::write_certificate(&self.parts.site, specification.certificate.as_ref()).await?;
        self.parts.datastore.engine().configure(&self.parts.site, &settings).await
    }

    async fn apply(&mut self) -> Result<(), EngineError> {
        if self.process.is_none() {
            return Ok(());
        }
        self.configure().await?;
        self.parts.datastore.engine().reload(&self.parts.site).await
    }

    fn want(&mut self, running: bool) -> Result<(), EngineError> {
        let written = self.parts.files.write_json(DESIRED, &running);
        written.map_err(|error| EngineError::new(Kind::Transient, format!("{error:#}")))?;
        self.wanted = running;
        Ok(())
    }

    async fn start_and_keep(&mut self) -> Result<(), EngineError> {
        self.want(true)?;
        self.restart_at = None;
        let started = self.start(StartMode::Normal).await;
        if let Err(error) = &started {
            self.say(ServiceState::Failed, &error.chain());
            self.plan_restart();
        }
        started
    }

    async fn stop_and_keep(&mut self) -> Result<(), EngineError> {
        self.want(false)?;
        self.restart_at = None;
        self.stop().await;
        Ok(())
    }

    async fn stop(&mut self) {
        let begun = Instant::now();
        if let Some(mut process) = self.process.take() {
            let spec = self.parts.datastore.engine().start_spec(&self.parts.site, StartMode::Normal);
            process.stop(spec.stop, spec.stop_deadline).await;
            info!(elapsed_ms = millis(begun), "the engine was stopped");
        }
        process::await_none_in(&self.parts.site.data, Duration::from_secs(10)).await;
        self.healthy_since = None;
        self.say(ServiceState::Shutdown, "");
    }

    /// Starts it where it does not run, and waits until it answers.
    async fn start_once(&mut self, mode: StartMode) -> Result<(), EngineError> {
        self.say(ServiceState::Starting, "");
        let engine = self.parts.datastore.engine();
        let spec = engine.start_spec(&self.parts.site, mode);
        let log = self.parts.log_dir.join(LOG);
        if self.process.is_none() {
            // Children of one that was killed live on for a moment and hold its shared memory.
            process::await_none_in(&self.parts.site.data, Duration::from_secs(10)).await;
            let begins = std::fs::metadata(&log).map_or(0, |facts| facts.len());
            let begun = Instant::now();
            let started = Process::start(&spec, &self.parts.host, &log);
            let process = started.map_err(|error| EngineError::new(Kind::Fatal, format!("{error:#}")))?;
            pass("agent.engine.started")?;
            if let Err(error) = self.parts.files.write_json(MARK, &process.mark) {
                // It is found by its command line after a crash.
                warn!(error = format!("{error:#}"), "the engine's process could not be written down");
            }
            info!(pid = process.mark.pid, "the engine was started");
            self.process = Some(process);
            self.await_answer(spec.start_deadline, begins).await?;
            info!(elapsed_ms = millis(begun), "the engine answers");
            return self.check_start(begins).await;
        }
        let begins = std::fs::metadata(&log).map_or(0, |facts| facts.len());
        self.await_answer(spec.start_deadline, begins).await
    }

    /// Stops an engine that answers but must not serve, as the strategy reads from what it wrote.
    async fn check_start(&mut self, log_begins: u64) -> Result<(), EngineError> {
        let checked = self.parts.datastore.engine().check_start(&self.log_from(log_begins));
        if checked.is_err() {
            self.stop().await;
        }
        checked
    }

    /// The one loop that asks: an engine does not say when it is ready.
    async fn await_answer(&mut self, deadline: Duration, log_begins: u64) -> Result<(), EngineError> {
        let end = Instant::now() + deadline;
        loop {
            let engine = self.parts.datastore.engine();
            tokio::select! {
                biased;
                how = ended(&mut self.process) => {
                    self.process = None;
                    let said = self.log_end(log_begins);
                    return Err(EngineError::new(Kind::Fatal, format!("the engine did not start ({how}): {said}")));
                }
                answer = engine.probe(&self.parts.site) => match answer {
                    Ok(health) => {
                        self.healthy(health);
                        return Ok(());
                    }
                    Err(error) if error.kind() == Kind::LockedOut && self.may_repair() => return Err(error),
                    Err(error) if Instant::now() >= end => {
                        return Err(EngineError::new(
                            Kind::Transient,
                            format!("the engine did not answer within {} s: {}", deadline.as_secs(), error.chain()),
                        ));
                    }
                    Err(_) => tokio::time::sleep(ASK_AGAIN).await,
                }
            }
        }
    }

    fn healthy(&mut self, health: Health) {
        self.misses = 0;
        self.healthy_since.get_or_insert_with(Instant::now);
        self.status.send_if_modified(|status| {
            let next = EngineStatus { service: ServiceState::Healthy, detail: String::new(), health: Some(health) };
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
                let starting = self.status.borrow().service == ServiceState::Starting;
                if self.misses >= BLOCKED_AFTER && !starting {
                    self.say(ServiceState::Blocked, &error.chain());
                }
                if self.misses >= BLOCKED_AFTER && error.kind() == Kind::LockedOut && self.may_repair() {
                    self.let_in_again(&error).await;
                }
            }
        }
    }

    fn crashed(&mut self, how: &str) {
        self.process = None;
        let said = self.log_end(0);
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

    async fn start_again(&mut self) {
        self.restart_at = None;
        let started = match self.configure().await {
            Ok(()) => self.start(StartMode::Normal).await,
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            error!(error = error.chain(), "the engine cannot be started");
            self.say(ServiceState::Crashed, &error.chain());
            self.plan_restart();
        }
    }

    /// What the engine wrote since `begins`.
    fn log_from(&self, begins: u64) -> String {
        let bytes = std::fs::read(self.parts.log_dir.join(LOG)).unwrap_or_default();
        let from = usize::try_from(begins).unwrap_or(0).min(bytes.len());
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }

    /// The last lines of that, in one line.
    fn log_end(&self, begins: u64) -> String {
        let text = self.log_from(begins);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let mut said = lines[lines.len().saturating_sub(5)..].join(" / ");
        while said.len() > 1000 {
            said.pop();
        }
        if said.is_empty() { "it wrote nothing".to_owned() } else { said }
    }
}

/// How long ago that was, for the log.
fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn probe_interval(assigned: &watch::Receiver<crate::settings::Assigned>) -> Duration {
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
