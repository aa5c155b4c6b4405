//! One controller of a history: the real runner and reconcilers, on the shared world.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::hosts::Hosts;
use super::network::Network;
use super::world::{Machine, World, gate};
use crate::agents::Agents as _;
use crate::app::App;
use crate::authority::Authorities;
use crate::config::Config;
use crate::ids::InstanceId;
use crate::operations::{Changes, Nudge, Runner, RunnerContext};
use crate::reconcile::{self, controllers};
use crate::seal::Seal;
use crate::store::agents::{AgentRow, ReportSequence};
use crate::store::controllers::Controller as Row;
use crate::store::sql::simulated::{Link, Server};
use crate::store::{Clock, Store};

/// How often an agent says what it said before.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Before the store is tried again.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// What every life of every controller stands on.
pub(super) struct Ground {
    pub(super) world: Arc<World>,
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
        let network = Arc::new(Network::new(world.clone(), machine.clone()));
        let (nudge, changes, shutdown) = (Nudge::default(), Changes::default(), CancellationToken::new());
        let context = RunnerContext {
            store: store.clone(),
            agents: network.clone(),
            compute: Arc::new(Hosts { world: world.clone(), machine: machine.clone() }),
            authorities: ground.authorities.clone(),
            config: ground.config.clone(),
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
        tasks.spawn(controllers::listen(store.clone(), nudge.clone(), changes, shutdown));
        tasks.spawn(
            Hub { world: world.clone(), network, store, nudge, linked: BTreeMap::new(), lost: BTreeSet::new() }.hear(),
        );
        machine.set_up();
        Self { app, machine, clock, end: CancellationToken::new(), _tasks: tasks }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// What the hub does: who is heard, and what was said, is written on change.
struct Hub {
    world: Arc<World>,
    network: Arc<Network>,
    store: Store,
    nudge: Nudge,
    /// Who is connected, and what was written of each on this connection.
    linked: BTreeMap<InstanceId, Option<AgentRow>>,
    /// Of whom a loss may have been written: an error does not say that it was not.
    lost: BTreeSet<InstanceId>,
}

impl Hub {
    async fn hear(mut self) {
        let mut reach = self.world.reach.subscribe();
        // An earlier life may have been killed.
        while self.store.lose_own_links(self.network.machine.name).await.is_err() {}
        loop {
            reach.mark_unchanged();
            let mut known: Vec<_> = self.world.guests.lock().unwrap().keys().copied().collect();
            known.extend(self.linked.keys());
            known.sort_unstable();
            known.dedup();
            let mut failed = false;
            for instance in known {
                failed |= self.hear_one(instance).await.is_err();
            }
            if failed {
                tokio::time::sleep(STORE_RETRY).await;
            } else {
                // The end of the wait is a heartbeat.
                let _ = timeout(HEARTBEAT, reach.changed()).await;
            }
        }
    }

    async fn hear_one(&mut self, instance: InstanceId) -> crate::error::Result<()> {
        let state = self.network.state(instance).borrow().clone();
        let controller = self.network.machine.name;
        if !state.connected {
            if self.linked.contains_key(&instance) {
                self.lost.insert(instance);
                self.store.lose_link(instance, controller).await?;
                self.linked.remove(&instance);
                self.lost.remove(&instance);
                self.nudge.now();
            }
            return Ok(());
        }
        if !self.linked.contains_key(&instance) || self.lost.contains(&instance) {
            self.store.put_link(instance, controller).await?;
            self.lost.remove(&instance);
            self.linked.insert(instance, None);
            self.nudge.now();
        }
        let row = AgentRow {
            service: state.service,
            detail: String::new(),
            engine_version: "15".to_owned(),
            volume_used_bytes: 1,
            assignment_generation: state.assignment_generation,
        };
        let reset = self.store.reset_services.take(instance);
        let written = self.linked.get(&instance).is_some_and(|written| written.as_ref() == Some(&row));
        if reset || !written {
            self.linked.insert(instance, None);
            self.store.put_agent(instance, &row, &ReportSequence::default()).await?;
            self.linked.insert(instance, Some(row));
            self.nudge.now();
        }
        Ok(())
    }
}
