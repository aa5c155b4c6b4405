//! One controller of a history: the real runner and reconcilers, on the shared world.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::world::{Hosts, Sleep, Wires, World, gate};
use crate::app::App;
use crate::authority::Authorities;
use crate::config::Config;
use crate::operations::{Changes, Nudge, Runner, RunnerContext};
use crate::reconcile::{self, controllers};
use crate::seal::Seal;
use crate::store::Store;
use crate::store::agents::{AgentRow, Word};
use crate::store::controllers::Controller as Row;
use crate::store::sql::simulated::{Link, Server};

/// A life of a controller. Dropped, it was killed.
pub(super) struct Controller {
    pub(super) app: App,
    pub(super) sleep: Sleep,
    pub(super) end: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Controller {
    /// Starts the controller of this name.
    pub(super) async fn start(
        world: &Arc<World>,
        server: &Server,
        clock: &crate::store::Clock,
        name: &'static str,
        authorities: &Arc<Authorities>,
    ) -> Self {
        let sleep = Sleep::new();
        let store = Store::simulated(Link::new(server.clone(), gate(world, &sleep)), clock, Seal::new(&[5; 32]));
        let wires = Arc::new(Wires::new(world.clone(), sleep.clone(), name));
        let (nudge, changes, shutdown) = (Nudge::default(), Changes::default(), CancellationToken::new());
        let context = RunnerContext {
            store: store.clone(),
            agents: wires.clone(),
            compute: Arc::new(Hosts { world: world.clone(), sleep: sleep.clone() }),
            authorities: authorities.clone(),
            config: Arc::new(Config::default()),
            controller_id: name.to_owned(),
            nudge: nudge.clone(),
            changes: changes.clone(),
        };
        let row = Row { id: name.to_owned(), agents_address: format!("{name}:8778"), place: None };
        while store.put_controller(&row, controllers::LIFETIME).await.is_err() {}
        let app = App {
            store: store.clone(),
            agents: context.agents.clone(),
            compute: context.compute.clone(),
            config: context.config.clone(),
            runner: nudge.clone(),
            changes: changes.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(Runner::new(context.clone()).run(shutdown.clone()));
        tasks.spawn(reconcile::run(context, shutdown.clone()));
        tasks.spawn(controllers::keep(store.clone(), row, shutdown.clone()));
        tasks.spawn(controllers::listen(store.clone(), nudge.clone(), changes, shutdown));
        tasks.spawn(hear(world.clone(), wires, store, nudge));
        Self { app, sleep, end: CancellationToken::new(), _tasks: tasks }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// What the hub does: who is heard, and what was said, is written on change.
async fn hear(world: Arc<World>, wires: Arc<Wires>, store: Store, nudge: Nudge) {
    let mut reach = world.reach.subscribe();
    let mut linked = BTreeSet::new();
    let mut said = std::collections::BTreeMap::new();
    // An earlier life may have been killed.
    while store.lose_own_links(wires.controller).await.is_err() {}
    loop {
        reach.mark_unchanged();
        let mut known: BTreeSet<_> = world.guests.lock().unwrap().keys().copied().collect();
        known.extend(&linked);
        let mut failed = false;
        for instance in known {
            wires.hear(instance);
            let state = crate::agents::Agents::state(&*wires, instance).borrow().clone();
            let row = AgentRow {
                service: state.service,
                detail: String::new(),
                engine_version: "15".to_owned(),
                volume_used_bytes: 1,
                assignment_generation: state.assignment_generation,
            };
            if state.connected && !linked.contains(&instance) {
                failed |= store.put_link(instance, wires.controller).await.is_err() || !linked.insert(instance);
                nudge.now();
            }
            if !state.connected && linked.contains(&instance) {
                failed |= store.lose_link(instance, wires.controller).await.is_err() || !linked.remove(&instance);
            }
            if state.connected && said.get(&instance) != Some(&row) {
                match store.put_agent(instance, &row, &Word::default()).await {
                    Ok(_) => said.insert(instance, row).map_or((), drop),
                    Err(_) => failed = true,
                }
            }
        }
        if failed {
            tokio::time::sleep(Duration::from_millis(500)).await;
        } else if reach.changed().await.is_err() {
            return;
        }
    }
}
