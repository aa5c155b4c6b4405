//! One life of an agent: its own links, services, jobs, journal, fence and identity, over an engine that is a set of facts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trove_agent::assignment::AssignmentStore;
use trove_agent::durable::Durable;
use trove_agent::identity::Identity;
use trove_agent::jobs::{Attached, JobQueue, Jobs, Worker};
use trove_agent::journal::Journal;
use trove_agent::link;
use trove_agent::service::Services;
use trove_agent::supervisor::{EngineStatus, SupervisedEngine};
use trove_proto::v1;
use trove_strategy::{
    Account, Applied, CharacterSet, Database, Databases, Datastore, Engine, EngineError, Grantee, Host,
    Identity as Name, Installation, Kind, NewUser, Parameter, Parameters, RealHost, Settings, Site, Size, User,
    UserChange, Users,
};

use super::engine::Fact;
use super::guest::{Guest, Life};
use super::world::NAMES;
use crate::authority::AgentName;
use crate::compute::Bootstrap;
use crate::testing::no_engine::{NoEngine, site};

/// Begins a life of an agent, from what an earlier life left in the directory.
pub(super) fn begin(
    guest: &Guest,
    directory: &Path,
    bootstrap: &Bootstrap,
    worker: Arc<dyn Worker>,
    end: CancellationToken,
) -> Life {
    let files = Durable::open(directory).unwrap();
    let authority = directory.join("given-authority.pem");
    std::fs::write(&authority, &bootstrap.authority_pem).unwrap();
    let assignments = Arc::new(AssignmentStore::open(files.clone()).unwrap());
    let journal = Journal::open(&directory.join("jobs")).unwrap();
    let jobs = Jobs::new(worker, assignments.clone(), journal);
    let life = Life { jobs, assignments: assignments.clone(), end: end.clone() };
    let own = Account::own().unwrap();
    let size = Size { memory_mib: 1, vcpus: 1, volume_gib: 1 };
    let services = Services {
        datastore: Arc::new(Facts(guest.clone())),
        site: site(&directory.join("engine"), &RealHost::new(own.clone(), own), size),
        supervisor: Arc::new(SimulatedEngine { guest: guest.clone(), assignments: assignments.clone() }),
        assignments,
        jobs: Arc::new(WatchedJobs { guest: guest.clone(), life: life.clone() }),
        identity: Identity::open(files, &authority).unwrap(),
        used: watch::channel(Some(1)).1,
        log_desk: Arc::default(),
        log_trouble: watch::channel(String::new()).1,
        cgroups: Vec::new(),
        first_controllers: bootstrap.controllers.clone(),
        boot_id: guest.next_boot(),
        size,
        reports: AtomicU64::new(0),
    };
    let name = AgentName { instance: guest.instance, generation: bootstrap.generation };
    let (world, until) = (guest.world.clone(), end.clone());
    let dial = move |address| world.clone().dial(name, until.clone(), address);
    tokio::spawn(end.clone().run_until_cancelled_owned(link::keep_all(Arc::new(services), dial)));
    life
}

/// The agent's jobs. Of each call it is looked at whether the fence is honoured; and some calls come twice, or late, or to
/// an agent that loses its connections over them.
struct WatchedJobs {
    guest: Guest,
    life: Life,
}

impl WatchedJobs {
    fn deliver(&self, start: v1::Start) -> Attached {
        let (world, instance, fence) = (&self.guest.world, self.guest.instance, start.fence);
        // What the agent has obeyed, and what it remembers to have seen.
        let obeyed = self.guest.engine.lock().unwrap().fence;
        let seen = obeyed.max(self.life.assignments.fence());
        let attached = self.life.jobs.start(start);
        world.rng.mark((instance, fence));
        let ended = attached.state.borrow().ended.clone();
        let error = ended.and_then(|ended| ended.error);
        let refused = error.is_some_and(|error| error.kind() == v1::ErrorKind::Fenced);
        if refused != (fence < seen) {
            world.violated(format!("{instance} has seen {seen} and takes {fence}: refused {refused}"));
        }
        self.guest.obey(fence);
        attached
    }

    /// The same start comes once more, when its sender may be gone, and what it was for too.
    fn come_again(&self, start: v1::Start) {
        let guest = self.guest.clone();
        tokio::spawn(async move {
            guest.world.rng.delay(1000, 120_000).await;
            let Some(life) = guest.life() else { return };
            let what = format!("a start comes late to {}", guest.instance);
            guest.world.rng.fault("requests that came late", what);
            WatchedJobs { guest, life }.deliver(start);
        });
    }
}

impl JobQueue for WatchedJobs {
    fn start(&self, start: v1::Start) -> Attached {
        let (world, instance) = (&self.guest.world, self.guest.instance);
        if world.fails(10) {
            world.rng.fault("requests that came twice", format!("a start comes twice to {instance}"));
            self.deliver(start.clone());
        }
        if world.fails(10) {
            self.come_again(start.clone());
        }
        for name in NAMES {
            if world.fails(10) {
                world.break_connection(name, instance);
            } else if world.fails(15) {
                world.cut_link(name, instance);
            }
        }
        self.deliver(start)
    }

    fn cancel(&self, operation: &str) {
        self.life.jobs.cancel(operation);
    }
}

/// The engine as the services see it.
struct SimulatedEngine {
    guest: Guest,
    assignments: Arc<AssignmentStore>,
}

#[async_trait]
impl SupervisedEngine for SimulatedEngine {
    fn status(&self) -> watch::Receiver<EngineStatus> {
        self.guest.status()
    }

    /// Comes with each new assignment.
    async fn apply(&self) -> Result<BTreeMap<String, Applied>, EngineError> {
        self.guest.obey(self.assignments.fence());
        let assigned = self.assignments.assigned().borrow().specification.parameters.clone();
        let mut engine = self.guest.engine.lock().unwrap();
        match (engine.running, engine.wanted) {
            (true, _) => Ok(engine.take_up(&assigned)),
            (false, true) => Err(EngineError::new(Kind::Transient, "the engine does not answer yet")),
            (false, false) => Ok(BTreeMap::new()),
        }
    }
}

/// The engine as questions see it. Changes come as jobs, and are the simulated work's.
struct Facts(Guest);

fn no_question<T>() -> Result<T, EngineError> {
    Err(EngineError::new(Kind::Fatal, "changes come as jobs"))
}

#[async_trait]
impl Datastore for Facts {
    fn identity(&self) -> Name {
        NoEngine.identity()
    }

    async fn installations(&self, host: &dyn Host, bindir: Option<&Path>) -> Result<Vec<Installation>, EngineError> {
        NoEngine.installations(host, bindir).await
    }

    fn engine(&self) -> &dyn Engine {
        &NoEngine
    }

    fn databases(&self) -> Option<&dyn Databases> {
        Some(self)
    }

    fn users(&self) -> Option<&dyn Users> {
        Some(self)
    }

    fn parameters(&self) -> Option<&dyn Parameters> {
        Some(self)
    }
}

#[async_trait]
impl Parameters for Facts {
    async fn describe(&self, _: &Site) -> Result<Vec<Parameter>, EngineError> {
        no_question()
    }

    async fn values(&self, _: &Site) -> Result<Vec<(String, String)>, EngineError> {
        Ok(self.0.engine.lock().unwrap().parameters.clone().into_iter().collect())
    }

    async fn check(&self, _: &Site, _: &BTreeMap<String, serde_json::Value>) -> Result<(), EngineError> {
        if self.0.world.fails(20) {
            self.0.world.rng.fault("parameters that were refused", format!("{} would not start", self.0.instance));
            return Err(EngineError::new(Kind::Invalid, "it would not start"));
        }
        Ok(())
    }

    async fn apply(&self, _: &Site, _: &Settings) -> Result<BTreeMap<String, Applied>, EngineError> {
        no_question()
    }
}

#[async_trait]
impl Databases for Facts {
    async fn character_sets(&self, _: &Site) -> Result<Vec<CharacterSet>, EngineError> {
        no_question()
    }

    async fn list(&self, _: &Site) -> Result<Vec<Database>, EngineError> {
        let database = |fact: &Fact| match fact {
            Fact::Database(name) => Some(Database { name: name.clone(), character_set: None, collation: None }),
            _ => None,
        };
        Ok(self.0.engine.lock().unwrap().facts.iter().filter_map(database).collect())
    }

    async fn create(&self, _: &Site, _: &Database) -> Result<(), EngineError> {
        no_question()
    }

    async fn delete(&self, _: &Site, _: &str) -> Result<(), EngineError> {
        no_question()
    }

    async fn grant(&self, _: &Site, _: &Grantee, _: &[String]) -> Result<(), EngineError> {
        no_question()
    }

    async fn revoke(&self, _: &Site, _: &Grantee, _: &str) -> Result<(), EngineError> {
        no_question()
    }
}

#[async_trait]
impl Users for Facts {
    async fn list(&self, _: &Site) -> Result<Vec<User>, EngineError> {
        let engine = self.0.engine.lock().unwrap();
        let user = |fact: &Fact| match fact {
            Fact::User(name) => {
                let id = Grantee { name: name.clone(), host: "%".to_owned() };
                Some(User::new(id, engine.grants(name)))
            }
            _ => None,
        };
        Ok(engine.facts.iter().filter_map(user).collect())
    }

    async fn get(&self, site: &Site, id: &Grantee) -> Result<Option<User>, EngineError> {
        Ok(Users::list(self, site).await?.into_iter().find(|user| user.id.name == id.name))
    }

    async fn create(&self, _: &Site, _: &NewUser) -> Result<(), EngineError> {
        no_question()
    }

    async fn delete(&self, _: &Site, _: &Grantee) -> Result<(), EngineError> {
        no_question()
    }

    async fn change(&self, _: &Site, _: &Grantee, _: &UserChange) -> Result<(), EngineError> {
        no_question()
    }
}
