//! A host, and its engine, which is a set of facts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trove_agent::assignment::AssignmentStore;
use trove_agent::jobs::Jobs;
use trove_agent::supervisor::EngineStatus;
use trove_proto::v1::ServiceState;
use trove_strategy::Health;

use super::engine::Engine;
use super::world::World;
use crate::compute::{Bootstrap, HostSpec};
use crate::ids::InstanceId;
use crate::state::HostState;

/// Of every engine.
pub(super) const VERSION: &str = "15";

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

/// A life of an agent, from its start to its death.
#[derive(Clone)]
pub(super) struct Life {
    pub(super) jobs: Jobs,
    pub(super) assignments: Arc<AssignmentStore>,
    pub(super) end: CancellationToken,
}

/// All hosts that there are.
pub(super) type Guests = Mutex<BTreeMap<InstanceId, Guest>>;

/// A host. Cheap to clone.
#[derive(Clone)]
pub(super) struct Guest {
    pub(super) instance: InstanceId,
    pub(super) directory: PathBuf,
    pub(super) world: Arc<World>,
    pub(super) bootstrap: Arc<Mutex<Bootstrap>>,
    status: watch::Sender<EngineStatus>,
    pub(super) engine: Arc<Mutex<Engine>>,
    pub(super) sizes: Arc<Mutex<Sizes>>,
    /// The greatest fence under which the driver has changed it.
    pub(super) fence: Arc<AtomicU64>,
    /// Whether its agent never comes to anything.
    pub(super) dud: bool,
    /// Whether the driver keeps its agent running.
    pub(super) kept: Arc<Mutex<bool>>,
    pub(super) life: Arc<Mutex<Option<Life>>>,
    /// How many lives there were.
    boots: Arc<AtomicU64>,
}

impl Guest {
    pub(super) fn new(spec: &HostSpec, directory: PathBuf, world: Arc<World>) -> Self {
        let instance = spec.instance;
        let (engine, sizes, kept, life) = (Arc::default(), Arc::default(), Arc::default(), Arc::default());
        let dud = world.fails(30);
        if dud {
            world.rng.fault("agents that never come", format!("the agent of {instance} will never come"));
        }
        let nothing = EngineStatus { service: ServiceState::New, detail: String::new(), health: None };
        let (status, bootstrap) = (watch::Sender::new(nothing), Arc::new(Mutex::new(spec.bootstrap.clone())));
        let (fence, boots) = (Arc::default(), Arc::default());
        Self { instance, directory, world, bootstrap, status, engine, sizes, fence, dud, kept, life, boots }
    }

    /// What the driver is told that it is to be.
    pub(super) fn become_as(&self, spec: &HostSpec) {
        *self.bootstrap.lock().unwrap() = spec.bootstrap.clone();
        let mut sizes = self.sizes.lock().unwrap();
        sizes.ram_mib = spec.size.memory_mib;
        sizes.volume_gib = sizes.volume_gib.max(spec.size.volume_gib);
    }

    pub(super) fn life(&self) -> Option<Life> {
        self.life.lock().unwrap().clone()
    }

    /// As the driver describes it: an agent that it is about to start again counts as there.
    pub(super) fn state(&self) -> HostState {
        if self.dud || self.life().is_some() { HostState::Active } else { HostState::Dead }
    }

    /// What the agent says of the engine.
    pub(super) fn status(&self) -> watch::Receiver<EngineStatus> {
        self.status.subscribe()
    }

    pub(super) fn set_running(&self, running: bool) {
        let assigned = self.life().map(|life| life.assignments.assigned().borrow().specification.parameters.clone());
        let mut engine = self.engine.lock().unwrap();
        if running && !engine.running {
            engine.parameters = assigned.unwrap_or_default();
        }
        engine.running = running;
        let service = match (engine.installed, running, engine.wanted) {
            (false, ..) => ServiceState::New,
            (true, true, _) => ServiceState::Healthy,
            (true, false, true) => ServiceState::Crashed,
            (true, false, false) => ServiceState::Shutdown,
        };
        drop(engine);
        let health = running.then(|| Health::new(VERSION));
        self.status.send_replace(EngineStatus { service, detail: String::new(), health });
    }

    /// The agent has done something under this fence.
    pub(super) fn obey(&self, fence: u64) {
        let mut engine = self.engine.lock().unwrap();
        engine.fence = engine.fence.max(fence);
    }

    /// The name of the agent's next life.
    pub(super) fn next_boot(&self) -> String {
        format!("{} {}", self.instance, self.boots.fetch_add(1, Ordering::SeqCst))
    }
}
