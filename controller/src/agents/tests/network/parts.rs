//! Controllers and an agent on hosts of a simulated network. All parts are real, except the transport (TCP without
//! TLS), the database (SQLite that answers at once), and the work of jobs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use trove_agent::assignment::AssignmentStore;
use trove_agent::durable::Durable;
use trove_agent::identity::Identity;
use trove_agent::jobs::{Job, Jobs, Outcome, Worker};
use trove_agent::journal::Journal;
use trove_agent::output_log::OutputLog;
use trove_agent::service::Services;
use trove_agent::supervisor::{self, Parts};
use trove_agent::{dial, link};
use trove_proto::v1;
use trove_strategy::{Account, Datastore, RealHost, Size};
use turmoil::net::{TcpListener, TcpStream};

use crate::agents::hub::Hub;
use crate::agents::tests::insert_instance;
use crate::agents::{AgentError, Agents as _, NoObjects};
use crate::authority::{AgentName, Authorities};
use crate::config::Config;
use crate::ids::{InstanceId, seeded};
use crate::operations::Nudge;
use crate::seal::Seal;
use crate::store::sql::simulated::{Link, Moment, Server};
use crate::store::{Clock, Store};
use crate::testing::no_engine::{NoEngine, site};

pub(super) const CONTROLLERS: [&str; 2] = ["one", "two"];
const PORT: u16 = 8778;
/// Time at which a history begins, microseconds since 1970.
const BEGIN: i64 = 1_800_000_000_000_000;

/// A request of a controller to the agent. It is repeated until it is answered, as the runner does.
#[derive(Clone)]
pub(super) enum Order {
    Job,
    Assign,
}

/// State that survives crashes, and is inspected by the tests.
pub(super) struct World {
    pub(super) instance: InstanceId,
    server: Server,
    authorities: Arc<Authorities>,
    directory: TempDir,
    hubs: Mutex<BTreeMap<&'static str, Arc<Hub>>>,
    agent: Mutex<Option<Arc<Services>>>,
    /// Orders and their controllers. The number of an order is its fence, and the generation of its assignment.
    orders: watch::Sender<Vec<(&'static str, Order)>>,
    answers: Mutex<BTreeMap<usize, Result<(), String>>>,
    /// How often the work of each order was carried out.
    effects: Mutex<BTreeMap<String, u32>>,
    /// Duration of a job.
    pub(super) job_takes: Mutex<Duration>,
    boots: Mutex<u32>,
    /// The point at which the database fails, for all callers.
    pub(super) store_fails: Arc<Mutex<Option<Moment>>>,
    /// Simulated time that has passed.
    pub(super) now: Mutex<Duration>,
    notes: Mutex<Vec<String>>,
}

impl World {
    /// A new database with one instance and its authorities.
    pub(super) fn new(seed: u64) -> Arc<Self> {
        let server = Store::simulated_server(BEGIN, "");
        let store_fails = Arc::default();
        let store = Store::simulated(database(&server, &store_fails), Clock::simulated(BEGIN), Seal::new(&[5; 32]));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        seeded::start(seed);
        let (instance, authorities) = runtime
            .block_on(async { (insert_instance(&store, 1).await, Arc::new(Authorities::load(&store).await.unwrap())) });
        seeded::end();
        Arc::new(Self {
            instance,
            server,
            authorities,
            directory: TempDir::new_in("/dev/shm").unwrap(),
            hubs: Mutex::default(),
            agent: Mutex::default(),
            orders: watch::Sender::new(Vec::new()),
            answers: Mutex::default(),
            effects: Mutex::default(),
            job_takes: Mutex::new(Duration::from_secs(1)),
            boots: Mutex::default(),
            store_fails,
            now: Mutex::default(),
            notes: Mutex::default(),
        })
    }

    /// Adds a line to the history.
    pub(super) fn note(&self, line: impl std::fmt::Display) {
        let at = *self.now.lock().unwrap();
        self.notes.lock().unwrap().push(format!("{:>9.3} {line}", at.as_secs_f64()));
    }

    /// The history.
    pub(super) fn history(&self) -> Vec<String> {
        self.notes.lock().unwrap().clone()
    }

    /// Gives a controller an order. Returns its number.
    pub(super) fn order(&self, controller: &'static str, order: Order) -> usize {
        let mut number = 0;
        self.orders.send_modify(|orders| {
            orders.push((controller, order));
            number = orders.len();
        });
        number
    }

    pub(super) fn answer(&self, order: usize) -> Option<Result<(), String>> {
        self.answers.lock().unwrap().get(&order).cloned()
    }

    /// Whether the history has this line.
    pub(super) fn was_noted(&self, line: &str) -> bool {
        self.notes.lock().unwrap().iter().any(|note| note.ends_with(line))
    }

    /// How often the work of an order was carried out.
    pub(super) fn effects(&self, order: usize) -> u32 {
        self.effects.lock().unwrap().get(&order.to_string()).copied().unwrap_or_default()
    }

    /// Whether a controller considers the agent connected; asserts that memory and store agree.
    pub(super) fn hears(&self, controller: &str) -> bool {
        let hub = self.hubs.lock().unwrap().get(controller).cloned();
        hub.is_some_and(|hub| hub.watch_state(self.instance).borrow().connected)
    }

    /// Whether the store says that the agent is connected to the controller.
    pub(super) fn is_written(&self, controller: &str) -> bool {
        let open = format!("select count(*) from agent_link where controller_id = '{controller}' and lost_at is null");
        self.ask::<i64>(&open) == 1
    }

    /// The first value of a query.
    pub(super) fn ask<T: for<'r> sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>>(&self, sql: &str) -> T {
        sqlx::Row::get(&self.server.ask(sql)[0], 0)
    }

    /// Generation of the assignment that the agent has stored.
    pub(super) fn kept_generation(&self) -> u64 {
        self.agent.lock().unwrap().as_ref().unwrap().assignments.assigned().borrow().generation
    }

    /// Generation of the agent's assignment, as reported to a controller.
    pub(super) fn heard_generation(&self, controller: &str) -> u64 {
        let hub = self.hubs.lock().unwrap()[controller].clone();
        hub.watch_state(self.instance).borrow().assignment_generation
    }
}

fn database(server: &Server, fails: &Arc<Mutex<Option<Moment>>>) -> Link {
    let fails = fails.clone();
    let gate = move |moment| -> BoxFuture<'static, sqlx::Result<()>> {
        let failing = *fails.lock().unwrap() == Some(moment);
        let answer = if failing { Err(sqlx::Error::PoolTimedOut) } else { Ok(()) };
        Box::pin(async { answer })
    };
    Link::new(server.clone(), Arc::new(gate), 0)
}

/// Runs a controller until it crashes.
pub(super) async fn controller(world: Arc<World>, name: &'static str) -> turmoil::Result {
    world.note(format!("controller {name} starts"));
    let store =
        Store::simulated(database(&world.server, &world.store_fails), Clock::simulated(BEGIN), Seal::new(&[5; 32]));
    let mut config = Config::default();
    // Certificates never expire, since the agent uses the real clock of the machine that runs the tests.
    config.agents.certificate_lifetime = Duration::from_secs(100 * 365 * 86_400);
    let config = Arc::new(config);
    let hub = Hub::new(
        store,
        world.authorities.clone(),
        config,
        name.to_owned(),
        Nudge::default(),
        Arc::new(crate::testing::NoLogs),
    );
    world.hubs.lock().unwrap().insert(name, hub.clone());
    hub.store.lose_own_links(name).await?;
    tokio::spawn(tell(world.clone(), hub.clone(), name));
    tokio::spawn(carry_out(world.clone(), hub.clone(), name));
    let listener = TcpListener::bind((IpAddr::from(Ipv4Addr::UNSPECIFIED), PORT)).await?;
    loop {
        let (stream, peer) = listener.accept().await?;
        let (hub, instance) = (hub.clone(), world.instance);
        let name = AgentName { instance, generation: 1 };
        tokio::spawn(async move { hub.serve_agent(stream, name, peer, CancellationToken::new()).await });
    }
}

/// Adds a line to the history when an agent connects to a controller, and when the connection is lost.
async fn tell(world: Arc<World>, hub: Arc<Hub>, name: &'static str) {
    let mut state = hub.watch_state(world.instance);
    let mut said = false;
    while state.wait_for(|state| state.connected != said).await.is_ok() {
        said = !said;
        world.note(format!("{name} {} the agent", if said { "hears" } else { "has lost" }));
    }
}

/// Carries out the orders of a controller, including those that it had not finished before a crash.
async fn carry_out(world: Arc<World>, hub: Arc<Hub>, name: &'static str) {
    let mut orders = world.orders.subscribe();
    let mut begun = 0;
    loop {
        let known = orders.borrow_and_update().clone();
        for (n, (whose, order)) in known.iter().enumerate().skip(begun) {
            if *whose == name && world.answer(n + 1).is_none() {
                tokio::spawn(carry_out_one(world.clone(), hub.clone(), n + 1, order.clone()));
            }
        }
        begun = known.len();
        if orders.changed().await.is_err() {
            return;
        }
    }
}

async fn carry_out_one(world: Arc<World>, hub: Arc<Hub>, number: usize, order: Order) {
    let (instance, fence) = (world.instance, u64::try_from(number).unwrap());
    let result = loop {
        let result = match order {
            Order::Job => {
                let target = instance.to_string();
                let key = v1::JobKey { operation: number.to_string(), step: "s".to_owned(), target, attempt: 1 };
                let work = Some(v1::start::Work::Restart(v1::Restart {}));
                hub.run(instance, v1::Start { key: Some(key), fence, deadline_s: 600, work }, &|_| {}, &NoObjects)
                    .await
                    .map(drop)
            }
            Order::Assign => {
                let controllers = CONTROLLERS.map(|name| format!("{name}:{PORT}")).to_vec();
                let specification = Some(v1::Specification { controllers, ..v1::Specification::default() });
                let request = v1::AssignRequest { fence, generation: fence, specification };
                hub.assign(instance, request).await.map(|_| ())
            }
        };
        if !matches!(result, Err(AgentError::Unreachable(_) | AgentError::Late(..))) {
            break result.map_err(|error| error.to_string());
        }
    };
    world.note(format!("order {number}: {result:?}"));
    world.answers.lock().unwrap().insert(number, result);
}

/// Runs the agent until it crashes.
pub(super) async fn agent(world: Arc<World>) -> turmoil::Result {
    let boot = {
        let mut boots = world.boots.lock().unwrap();
        *boots += 1;
        *boots
    };
    world.note(format!("the agent starts for the {boot}. time"));
    let services = services(&world, boot).await?;
    *world.agent.lock().unwrap() = Some(services.clone());
    let connect = move |address: String| {
        let world = world.clone();
        async move {
            let stream = timeout(dial::LIMIT, TcpStream::connect(address.as_str())).await;
            let stream = stream.context("no answer")?.context("no connection")?;
            world.note(format!("the agent reaches {address}"));
            Ok(stream)
        }
    };
    link::keep_all(services, connect).await;
    Ok(())
}

async fn services(world: &Arc<World>, boot: u32) -> anyhow::Result<Arc<Services>> {
    let directory = world.directory.path();
    let files = Durable::open(directory)?;
    let authority = directory.join("given-authority.pem");
    std::fs::write(&authority, world.authorities.agents_pem())?;
    let assignments = Arc::new(AssignmentStore::open(files.clone())?);
    let journal = Journal::open(&directory.join("jobs"))?;
    let jobs = Jobs::new(Arc::new(SlowWork(world.clone())), assignments.clone(), journal);
    let own = Account::own()?;
    let host = RealHost::new(own.clone(), own);
    let size = Size { memory_mib: 1, vcpus: 1, volume_gib: 1 };
    let site = site(&directory.join("engine"), &host, size);
    let datastore: Arc<dyn Datastore> = Arc::new(NoEngine);
    let identity = Identity::open(files.clone(), &authority)?;
    let used = tokio::sync::watch::channel(Some(0)).1;
    let parts = Parts {
        datastore: datastore.clone(),
        site: site.clone(),
        host,
        files,
        assignments: assignments.clone(),
        log: OutputLog::of_engine(directory),
        used: used.clone(),
    };
    Ok(Arc::new(Services {
        datastore,
        site,
        supervisor: Arc::new(supervisor::spawn(parts).await?),
        assignments,
        jobs: Arc::new(jobs),
        identity,
        used,
        log_desk: Arc::default(),
        log_trouble: tokio::sync::watch::channel(String::new()).1,
        cgroups: Vec::new(),
        first_controllers: CONTROLLERS.map(|name| format!("{name}:{PORT}")).to_vec(),
        boot_id: format!("boot {boot}"),
        size,
        reports: std::sync::atomic::AtomicU64::new(0),
    }))
}

/// Work that takes [`World::job_takes`] and is counted.
struct SlowWork(Arc<World>);

#[async_trait]
impl Worker for SlowWork {
    async fn work(&self, job: &Job, _work: v1::start::Work) -> Result<Outcome, v1::Error> {
        let seconds = self.0.job_takes.lock().unwrap().as_secs();
        for second in 0..seconds {
            let work = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(())
            };
            job.stage("work", &second.to_string(), work).await?;
        }
        // Nothing is awaited between this and the journal, so counted work is recorded.
        *self.0.effects.lock().unwrap().entry(job.key.operation.clone()).or_default() += 1;
        self.0.note(format!("job {} is done", job.key.operation));
        Ok(Outcome::Stopped(v1::Stopped {}))
    }
}
