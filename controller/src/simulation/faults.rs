//! What goes wrong, and is mended after a while.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::controller::{Controller, Ground};
use super::guest::Guest;
use super::world::NAMES;

/// The controllers that live.
pub(super) struct Controllers {
    pub(super) ground: Arc<Ground>,
    pub(super) alive: Mutex<BTreeMap<&'static str, Controller>>,
}

impl Controllers {
    pub(super) fn new(ground: Arc<Ground>) -> Arc<Self> {
        Arc::new(Self { ground, alive: Mutex::default() })
    }

    /// Starts the one of this name.
    pub(super) async fn start(&self, name: &'static str) {
        let new = Controller::start(&self.ground, name).await;
        self.ground.world.rng.note(format!("controller {name} starts"));
        self.alive.lock().unwrap().insert(name, new);
    }

    /// Ends the life of one; another begins after a while.
    pub(super) fn kill(self: &Arc<Self>, name: &'static str) {
        let killed = self.alive.lock().unwrap().remove(name);
        if killed.is_none() {
            return;
        }
        let all = self.clone();
        tokio::spawn(async move {
            all.ground.world.rng.delay(10, 40_000).await;
            all.start(name).await;
        });
    }

    /// Something goes wrong.
    pub(super) fn strike(self: &Arc<Self>) {
        let (world, rng) = (&self.ground.world, &self.ground.world.rng);
        let name = rng.pick(&NAMES);
        let guests: Vec<Guest> = self.ground.guests.lock().unwrap().values().cloned().collect();
        let guest =
            (!guests.is_empty()).then(|| &guests[usize::try_from(rng.between(0, guests.len() as u64)).unwrap()]);
        match (rng.between(0, 16), guest) {
            (0..2, _) => {
                rng.fault("controllers that were killed", format!("controller {name} is killed"));
                self.kill(name);
            }
            (2..4, _) => {
                let alive = self.alive.lock().unwrap();
                let Some(controller) = alive.get(name) else { return };
                controller.machine.fall_asleep(rng, "any time");
            }
            (4..6, _) => {
                let alive = self.alive.lock().unwrap();
                let Some(controller) = alive.get(name) else { return };
                let seconds = i64::try_from(rng.between(0, 1200)).unwrap() - 600;
                rng.fault("clocks that jumped", format!("the clock of {name} jumps by {seconds} s"));
                controller.clock.set(controller.clock.now() + seconds * 1_000_000);
            }
            (6..9, Some(guest)) => {
                rng.fault("agents that were killed", format!("agent {} is killed", guest.instance));
                guest.kill();
            }
            (9, Some(guest)) => {
                rng.fault("hosts that lost power", format!("host {} loses power", guest.instance));
                guest.lose_power();
            }
            (10, Some(guest)) => {
                rng.fault("engines that crashed", format!("engine {} crashes", guest.instance));
                guest.crash();
            }
            (11, Some(guest)) => {
                rng.fault("certificates that came near their end", format!("{} needs a certificate", guest.instance));
                let soon = self.ground.server.now();
                self.ground.server.meddle(&format!(
                    "update assignment set not_after = {soon} where instance_id = '{}'",
                    guest.instance
                ));
            }
            (12, Some(guest)) => world.break_connection(name, guest.instance),
            (_, Some(guest)) => world.cut_link(name, guest.instance),
            (_, None) => {}
        }
    }
}
