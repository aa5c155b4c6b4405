//! One controller of a history: the real runner, reconcilers and hub, on the shared world.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::guest::Guests;
use super::hosts::Hosts;
use super::world::{Listener, Machine, World, gate};
use crate::agents::hub::Hub;
use crate::app::App;
use crate::authority::{AgentName, Authorities};
use crate::config::Config;
use crate::objects::Objects;
use crate::operations::{Changes, Nudge, Runner, RunnerContext};
use crate::reconcile::{self, controllers};
use crate::seal::Seal;
use crate::store::controllers::Controller as Row;
use crate::store::sql::simulated::{Link, Server};
use crate::store::{Clock, Store};

/// Before the store is tried again.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// What every life of every controller stands on.
pub(super) struct Ground {
    pub(super) world: Arc<World>,
    pub(super) guests: Arc<Guests>,
    pub(super) server: Server,
    pub(super) authorities: Arc<Authorities>,
    pub(super) config: Arc<Config>,
    /// How many lives there were.
    pub(super) lives: AtomicI64,
}

/// A life of a controller. Dropped, it was killed.
pub(super) struct Controller {
    pub(super) app: App,
    pub(super) machine: Machine,
    /// The clock of its machine.
    pub(super) clock: Clock,
    pub(super) end: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Controller {
    /// Starts the controller of this name.
    pub(super) async fn start(ground: &Ground, name: &'static str) -> Self {
        let world = &ground.world;
        let machine = Machine::new(name);
        let life = ground.lives.fetch_add(1, Ordering::SeqCst);
        // The machine's clock is an hour off, one way or the other.
        let clock = Clock::simulated(ground.server.now());
        clock.set(clock.now() - 3_600_000_000 + i64::try_from(world.rng.between(0, 7_200_000_000)).unwrap());
        let link = Link::new(ground.server.clone(), gate(world, &machine), life);
        let store = Store::simulated(link, clock.clone(), Seal::new(&[5; 32]));
        let (nudge, changes, shutdown) = (Nudge::default(), Changes::default(), CancellationToken::new());
        let (authorities, config) = (ground.authorities.clone(), ground.config.clone());
        let hub = Hub::new(
            store.clone(),
            authorities,
            config,
            name.to_owned(),
            nudge.clone(),
            Arc::new(crate::testing::NoLogs),
        );
        let context = RunnerContext {
            store: store.clone(),
            agents: hub.clone(),
            compute: Arc::new(Hosts { world: world.clone(), guests: ground.guests.clone(), machine: machine.clone() }),
            authorities: ground.authorities.clone(),
            config: ground.config.clone(),
            objects: Objects::open_directory(
                world.directory.path().join("objects"),
                None,
                store.seal.clone(),
                &ground.config,
            )
            .unwrap(),
            controller_id: name.to_owned(),
            nudge: nudge.clone(),
            changes: changes.clone(),
        };
        // Some come back elsewhere, which every agent has to be told.
        let port = world.rng.pick(&[8778, 8778, 8779]);
        let row = Row { id: name.to_owned(), agents_address: format!("{name}:{port}"), place: None };
        while store.put_controller(&row, controllers::LIFETIME).await.is_err() {}
        let app = App {
            store: store.clone(),
            agents: context.agents.clone(),
            compute: context.compute.clone(),
            config: context.config.clone(),
            runner: nudge.clone(),
            changes: changes.clone(),
            registered: tokio::sync::watch::channel(true).1,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(Runner::new(context.clone()).run(shutdown.clone()));
        tasks.spawn(reconcile::run(context, shutdown.clone()));
        tasks.spawn(controllers::keep(store.clone(), row, shutdown.clone()));
        tasks.spawn(controllers::listen(store, nudge, changes, shutdown));
        let (accepted, accepting) = mpsc::unbounded_channel();
        tasks.spawn(listen(hub, accepting));
        let end = CancellationToken::new();
        let listener = Listener { machine: machine.clone(), end: end.clone(), accepted };
        world.listeners.lock().unwrap().insert(name, listener);
        machine.set_up();
        Self { app, machine, clock, end, _tasks: tasks }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// Serves agents, as the listener does with those whose certificates it has verified.
async fn listen(hub: Arc<Hub>, mut accepted: mpsc::UnboundedReceiver<(DuplexStream, AgentName)>) {
    // An earlier life may have been killed.
    while hub.store.lose_own_links(&hub.controller_id).await.is_err() {
        tokio::time::sleep(STORE_RETRY).await;
    }
    let mut connections = JoinSet::new();
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    while let Some((stream, name)) = accepted.recv().await {
        let hub = hub.clone();
        connections.spawn(async move { hub.serve_agent(stream, name, peer, CancellationToken::new()).await });
        while connections.try_join_next().is_some() {}
    }
}
