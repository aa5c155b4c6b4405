//! A host with its agent: the agent's own journal, fence and jobs, over an engine that is a set of facts.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use trove_agent::assignment::AssignmentStore;
use trove_agent::durable::Durable;
use trove_agent::jobs::{Job, Jobs, Outcome, Worker};
use trove_agent::journal::Journal;
use trove_proto::v1;
use trove_strategy::Size;
use v1::account_change::Kind as Change;
use v1::start::Work;

use super::crash::Crash;
use super::engine::{Engine, refuse};
use crate::ids::InstanceId;
use crate::state::{HostState, Service};

/// One life of the agent, from its start to its death.
#[derive(Clone)]
pub(super) struct Life {
    pub(super) jobs: Jobs,
    pub(super) assignments: Arc<AssignmentStore>,
    pub(super) end: CancellationToken,
}

/// What a host was made as.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sizes {
    /// What the next start will have, MiB.
    pub(super) ram_mib: u64,
    /// What it has since the last start, MiB.
    pub(super) ram_mib_in_force: u64,
    /// GiB.
    pub(super) volume_gib: u64,
}

/// A host. Cheap to clone.
#[derive(Clone)]
pub(super) struct Guest {
    pub(super) instance: InstanceId,
    directory: PathBuf,
    crash: Arc<Crash>,
    pub(super) engine: Arc<Mutex<Engine>>,
    pub(super) sizes: Arc<Mutex<Sizes>>,
    /// The greatest fence under which the driver has changed it.
    pub(super) fence: Arc<AtomicU64>,
    /// Whether its agent never comes to anything.
    dud: bool,
    /// Whether the driver keeps its agent running.
    kept: Arc<Mutex<bool>>,
    life: Arc<Mutex<Option<Life>>>,
}

struct SimulatedWork {
    guest: Guest,
    crash: Arc<Crash>,
    end: CancellationToken,
}

impl Guest {
    pub(super) fn new(instance: InstanceId, directory: PathBuf, crash: Arc<Crash>) -> Self {
        let (engine, sizes, kept, life) = (Arc::default(), Arc::default(), Arc::default(), Arc::default());
        let dud = crash.fails(30);
        if dud {
            crash.rng.fault("agents that never come", format!("the agent of {instance} will never come"));
        }
        Self { instance, directory, crash, engine, sizes, fence: Arc::default(), dud, kept, life }
    }

    /// What the driver is told that it is to be.
    pub(super) fn resize(&self, size: Size) {
        let mut sizes = self.sizes.lock().unwrap();
        sizes.ram_mib = size.memory_mib;
        sizes.volume_gib = sizes.volume_gib.max(size.volume_gib);
    }

    /// Starts the agent, from what its earlier life left.
    pub(super) fn start(&self) {
        if self.dud {
            return;
        }
        let files = Durable::open(&self.directory).unwrap();
        let assignments = Arc::new(AssignmentStore::open(files).unwrap());
        let journal = Journal::open(&self.directory.join("jobs")).unwrap();
        let end = CancellationToken::new();
        let worker = SimulatedWork { guest: self.clone(), crash: self.crash.clone(), end: end.clone() };
        let jobs = Jobs::new(Arc::new(worker), assignments.clone(), journal);
        *self.life.lock().unwrap() = Some(Life { jobs, assignments, end });
        *self.kept.lock().unwrap() = true;
        {
            let mut sizes = self.sizes.lock().unwrap();
            sizes.ram_mib_in_force = sizes.ram_mib;
        }
        self.revive();
        self.crash.changed();
    }

    /// Kills the agent, at whatever it is. The engine runs on, and the driver starts the agent again.
    pub(super) fn kill(&self) {
        if let Some(life) = self.life.lock().unwrap().take() {
            life.end.cancel();
        }
        self.crash.changed();
        let guest = self.clone();
        tokio::spawn(async move {
            guest.crash.rng.delay(200, 5000).await;
            let kept = *guest.kept.lock().unwrap();
            if kept && guest.life().is_none() {
                guest.start();
            }
        });
    }

    /// The machine goes down under everything, and comes back.
    pub(super) fn lose_power(&self) {
        self.engine.lock().unwrap().running = false;
        self.kill();
    }

    /// Ends agent and engine until it is started.
    pub(super) fn stop(&self) {
        *self.kept.lock().unwrap() = false;
        self.lose_power();
    }

    /// The engine ends by itself.
    pub(super) fn crash(&self) {
        self.engine.lock().unwrap().running = false;
        self.revive();
        self.crash.changed();
    }

    /// The agent starts the engine after a while, where it is to run.
    fn revive(&self) {
        let Some(life) = self.life() else { return };
        let guest = self.clone();
        tokio::spawn(async move {
            guest.crash.rng.delay(100, 3000).await;
            let mut engine = guest.engine.lock().unwrap();
            if !life.end.is_cancelled() && engine.wanted && !engine.running {
                engine.running = true;
                drop(engine);
                guest.crash.changed();
            }
        });
    }

    pub(super) fn life(&self) -> Option<Life> {
        self.life.lock().unwrap().clone()
    }

    /// As the driver describes it: an agent that it is about to start again counts as there.
    pub(super) fn state(&self) -> HostState {
        if self.dud || self.life().is_some() { HostState::Active } else { HostState::Dead }
    }

    pub(super) fn service(&self) -> Service {
        let engine = self.engine.lock().unwrap();
        match (engine.installed, engine.running, engine.wanted) {
            (false, ..) => Service::New,
            (true, true, _) => Service::Healthy,
            (true, false, true) => Service::Crashed,
            (true, false, false) => Service::Shutdown,
        }
    }

    /// Generation of the assignment in force.
    pub(super) fn generation(&self) -> u64 {
        self.life().map_or(0, |life| life.assignments.assigned().borrow().generation)
    }
}

impl SimulatedWork {
    /// Takes its time. A dead agent never comes back from here.
    async fn pause(&self, from: u64, to: u64) {
        let dies = self.crash.fails(20);
        self.crash.rng.delay(from, to).await;
        if dies && !self.end.is_cancelled() {
            let died = format!("agent {} dies in the midst of a job", self.guest.instance);
            self.crash.rng.fault("agents that died in the midst of a job", died);
            self.guest.kill();
        }
        if self.end.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    /// Some work lasts longer than a lease, so that a controller that sleeps comes back in the midst of it.
    fn longest(&self, usual: u64) -> u64 {
        if self.crash.rng.one_in(3) { 60_000 } else { usual }
    }

    fn run(&self, running: bool) {
        let mut engine = self.guest.engine.lock().unwrap();
        engine.running = running;
        if running {
            engine.installed = true;
        }
        drop(engine);
        self.crash.changed();
    }

    async fn prepare(&self, prepare: v1::Prepare) -> Result<(), v1::Error> {
        let (guest, crash) = (&self.guest, &self.crash);
        let assignments = guest.life().map(|life| life.assignments);
        let assigned = assignments
            .map(|assignments| assignments.assign(prepare.generation, prepare.specification.unwrap_or_default()));
        assigned.transpose().map_err(|error| refuse(v1::ErrorKind::Transient, error.to_string()))?;
        self.pause(200, self.longest(4000)).await;
        if crash.fails(30) {
            crash.rng.fault("engines that cannot be installed", format!("{} is not installed", guest.instance));
            return Err(refuse(v1::ErrorKind::Fatal, "initialise: it does not like this"));
        }
        guest.engine.lock().unwrap().wanted = true;
        self.run(true);
        let databases = prepare.databases.into_iter().map(Change::CreateDatabase);
        let users = prepare.users.into_iter().map(Change::CreateUser);
        for change in databases.chain(users) {
            guest.engine.lock().unwrap().change(change)?;
        }
        Ok(())
    }

    async fn change(&self, changes: v1::ChangeAccounts) -> Result<(), v1::Error> {
        for change in changes.changes {
            self.pause(5, 200).await;
            let (running, wanted) = {
                let engine = self.guest.engine.lock().unwrap();
                (engine.running, engine.wanted)
            };
            match (running, wanted) {
                (true, _) => {}
                (false, true) => return Err(refuse(v1::ErrorKind::Transient, "the engine does not answer")),
                (false, false) => return Err(refuse(v1::ErrorKind::Fatal, "the engine is stopped")),
            }
            if let Some(kind) = change.kind {
                self.guest.engine.lock().unwrap().change(kind)?;
            }
        }
        if self.crash.fails(20) {
            self.crash.rng.fault("changes of accounts that failed half-way", "a tenant holds a lock");
            return Err(refuse(v1::ErrorKind::Transient, "a tenant holds a lock"));
        }
        Ok(())
    }
}

#[async_trait]
impl Worker for SimulatedWork {
    async fn work(&self, job: &Job, work: Work) -> Result<Outcome, v1::Error> {
        let (guest, crash) = (&self.guest, &self.crash);
        let key = format!("{} {} {}", job.key.operation, job.key.step, job.key.attempt);
        self.pause(5, 300).await;
        let engine_version = || "15".to_owned();
        let outcome = match work {
            Work::Prepare(prepare) => {
                self.prepare(prepare).await?;
                Outcome::Prepared(v1::Prepared { engine_version: engine_version() })
            }
            Work::Restart(_) => {
                guest.engine.lock().unwrap().wanted = true;
                self.run(false);
                self.pause(100, self.longest(2000)).await;
                self.run(true);
                Outcome::Restarted(v1::Restarted { engine_version: engine_version() })
            }
            Work::Stop(_) => {
                guest.engine.lock().unwrap().wanted = false;
                self.run(false);
                Outcome::Stopped(v1::Stopped {})
            }
            Work::ChangeAccounts(changes) => {
                let made = u32::try_from(changes.changes.len()).unwrap();
                self.change(changes).await?;
                Outcome::AccountsChanged(v1::AccountsChanged { changes: made })
            }
        };
        if crash.fails(15) {
            crash.rng.fault("agents that died between an effect and its record", format!("{key} is not written down"));
            guest.kill();
            std::future::pending::<()>().await;
        }
        // From here to the journal nothing is awaited: what is counted is written down.
        *guest.engine.lock().unwrap().effects.entry(key.clone()).or_default() += 1;
        crash.rng.note(format!("{} has done {key}", guest.instance));
        Ok(outcome)
    }
}
