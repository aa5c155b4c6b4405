//! A host with its agent: the agent's own journal, fence and jobs, over an engine that is a few numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use trove_agent::durable::Durable;
use trove_agent::jobs::{Job, Jobs, Worker};
use trove_agent::journal::Journal;
use trove_agent::settings::Keeper;
use trove_proto::v1;
use v1::account_change::Kind as Change;
use v1::start::Work;

use super::chance::Chance;
use crate::ids::InstanceId;
use crate::state::Service;

/// What is known of an engine, by whoever asks it.
#[derive(Clone, Debug, Default)]
pub(super) struct Engine {
    pub(super) running: bool,
    pub(super) users: BTreeSet<String>,
    /// How often the work of a key was carried out and written down.
    pub(super) effects: BTreeMap<String, u32>,
}

/// One life of the agent, from its start to its death.
#[derive(Clone)]
pub(super) struct Life {
    pub(super) jobs: Jobs,
    pub(super) keeper: Arc<Keeper>,
    pub(super) end: CancellationToken,
}

/// A host. Cheap to clone.
#[derive(Clone)]
pub(super) struct Guest {
    pub(super) instance: InstanceId,
    directory: PathBuf,
    chance: Chance,
    pub(super) engine: Arc<Mutex<Engine>>,
    life: Arc<Mutex<Option<Life>>>,
}

struct SimulatedWork {
    guest: Guest,
    end: CancellationToken,
}

impl Guest {
    pub(super) fn new(instance: InstanceId, directory: PathBuf, chance: Chance) -> Self {
        Self { instance, directory, chance, engine: Arc::default(), life: Arc::default() }
    }

    /// Starts the agent, from what its earlier life left.
    pub(super) fn start(&self) {
        let files = Durable::open(&self.directory).unwrap();
        let keeper = Arc::new(Keeper::open(files).unwrap());
        let journal = Journal::open(&self.directory.join("jobs")).unwrap();
        let end = CancellationToken::new();
        let worker = SimulatedWork { guest: self.clone(), end: end.clone() };
        let jobs = Jobs::new(Arc::new(worker), keeper.clone(), journal);
        *self.life.lock().unwrap() = Some(Life { jobs, keeper, end });
    }

    /// Kills the agent, at whatever it is.
    pub(super) fn kill(&self) {
        if let Some(life) = self.life.lock().unwrap().take() {
            life.end.cancel();
        }
    }

    pub(super) fn life(&self) -> Option<Life> {
        self.life.lock().unwrap().clone()
    }

    pub(super) fn service(&self) -> Service {
        if self.engine.lock().unwrap().running { Service::Healthy } else { Service::New }
    }

    /// Generation of the assignment in force.
    pub(super) fn generation(&self) -> u64 {
        self.life().map_or(0, |life| life.keeper.assigned().borrow().generation)
    }
}

impl SimulatedWork {
    /// Takes its time. A dead agent never comes back from here.
    async fn pause(&self, from: u64, to: u64) {
        self.guest.chance.delay(from, to).await;
        if self.end.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    /// Some work lasts longer than a lease, so that a controller that sleeps comes back in the midst of it.
    fn longest(&self, usual: u64) -> u64 {
        if self.guest.chance.one_in(3) { 60_000 } else { usual }
    }

    fn refuse(kind: v1::ErrorKind, message: &str) -> v1::Error {
        v1::Error { kind: kind.into(), message: message.to_owned() }
    }
}

#[async_trait]
impl Worker for SimulatedWork {
    async fn work(&self, job: &Job, work: Work) -> Result<(), v1::Error> {
        let (guest, key) = (&self.guest, format!("{} {} {}", job.key.operation, job.key.step, job.key.attempt));
        self.pause(5, 300).await;
        match work {
            Work::Prepare(prepare) => {
                let keeper = guest.life().map(|life| life.keeper);
                let assigned =
                    keeper.map(|keeper| keeper.assign(prepare.generation, prepare.specification.unwrap_or_default()));
                assigned.transpose().map_err(|error| Self::refuse(v1::ErrorKind::Transient, &error.to_string()))?;
                let longest = self.longest(4000);
                self.pause(200, longest).await;
                if guest.chance.one_in(40) {
                    return Err(Self::refuse(v1::ErrorKind::Fatal, "initialise: it does not like this"));
                }
                guest.engine.lock().unwrap().running = true;
            }
            Work::Restart(_) => {
                guest.engine.lock().unwrap().running = false;
                let longest = self.longest(2000);
                self.pause(100, longest).await;
                guest.engine.lock().unwrap().running = true;
            }
            Work::Stop(_) => guest.engine.lock().unwrap().running = false,
            Work::ChangeAccounts(changes) => {
                for change in changes.changes {
                    self.pause(5, 200).await;
                    if let Some(Change::CreateUser(user)) = change.kind {
                        let name = user.account.unwrap_or_default().name;
                        guest.engine.lock().unwrap().users.insert(name);
                    }
                }
                if guest.chance.one_in(20) {
                    return Err(Self::refuse(v1::ErrorKind::Transient, "a tenant holds a lock"));
                }
            }
        }
        // From here to the journal nothing is awaited: what is counted is written down.
        *guest.engine.lock().unwrap().effects.entry(key.clone()).or_default() += 1;
        guest.chance.note(format!("{} has done {key}", guest.instance));
        Ok(())
    }
}
