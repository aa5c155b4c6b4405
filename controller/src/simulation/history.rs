//! One history: what users ask for, what goes wrong, and what must be true when it has stopped going wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::chance::Chance;
use super::controller::Controller;
use super::world::{Sleep, World, gate};
use crate::app::harness::{caller, order, user};
use crate::authority::Authorities;
use crate::ids::{InstanceId, seeded};
use crate::seal::Seal;
use crate::store::sql::simulated::{Link, Server};
use crate::store::{Clock, Store, harness};

const NAMES: [&str; 2] = ["one", "two"];
/// For how long users ask and things go wrong.
const FAULTY: u64 = 180_000;
/// When everything must have ended, after that.
const SETTLED: Duration = Duration::from_secs(3600);
/// For the reconcilers, which look once a minute.
const RECONCILED: Duration = Duration::from_secs(300);

/// Runs the history of a seed. What happened, and what was wrong at its end.
pub(super) fn run(seed: u64) -> (Vec<String>, Result<(), String>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    seeded::start(seed);
    let result = runtime.block_on(async {
        let chance = Chance::new(seed);
        let ended = History::begin(chance.clone()).await.live().await;
        (chance.history(), ended)
    });
    seeded::end();
    result
}

struct History {
    chance: Chance,
    world: Arc<World>,
    server: Server,
    clock: Clock,
    authorities: Arc<Authorities>,
    controllers: BTreeMap<&'static str, Controller>,
    instances: Vec<InstanceId>,
    /// Users that were accepted, by operation.
    asked: Arc<std::sync::Mutex<Vec<(InstanceId, String, String)>>>,
    ordered: Arc<std::sync::Mutex<Vec<InstanceId>>>,
}

impl History {
    async fn begin(chance: Chance) -> Self {
        let world = World::new(chance.clone());
        let (server, clock) = Store::simulated_server();
        world.faulty.store(false, Ordering::SeqCst);
        let own = Link::new(server.clone(), gate(&world, &Sleep::new()));
        let store = Store::simulated(own, &clock, Seal::new(&[5; 32]));
        harness::register(&store, &harness::manifest()).await;
        let authorities = Arc::new(Authorities::load(&store).await.unwrap());
        world.faulty.store(true, Ordering::SeqCst);
        let controllers = BTreeMap::new();
        let (asked, ordered) = (Arc::default(), Arc::default());
        Self { chance, world, server, clock, authorities, controllers, instances: Vec::new(), asked, ordered }
    }

    async fn live(mut self) -> Result<(), String> {
        for name in NAMES {
            self.start(name).await;
        }
        let begun = Instant::now();
        let mut plan: Vec<(u64, u64)> =
            (0..self.chance.between(6, 14)).map(|_| (self.chance.between(0, FAULTY), 0)).collect();
        plan.extend((0..self.chance.between(4, 14)).map(|_| (self.chance.between(0, FAULTY), 1)));
        plan[0] = (self.chance.between(0, 1000), 0);
        plan.sort_unstable();
        for (at, kind) in plan {
            tokio::time::sleep_until(begun + Duration::from_millis(at)).await;
            self.instances = self.ordered.lock().unwrap().clone();
            if kind == 0 { self.ask() } else { self.harm().await }
        }
        tokio::time::sleep_until(begun + Duration::from_millis(FAULTY + 5000)).await;
        self.heal().await;
        self.settle().await?;
        tokio::time::sleep(RECONCILED).await;
        self.settle().await?;
        self.check()
    }

    async fn start(&mut self, name: &'static str) {
        let new = Controller::start(&self.world, &self.server, &self.clock, name, &self.authorities).await;
        self.chance.note(format!("controller {name} starts"));
        self.controllers.insert(name, new);
        self.world.changed();
    }

    /// A user asks one of the controllers for something.
    fn ask(&self) {
        let name = NAMES[usize::from(self.chance.one_in(2))];
        let Some(controller) = self.controllers.get(name) else { return };
        let (app, end, chance) = (controller.app.clone(), controller.end.clone(), self.chance.clone());
        let (asked, ordered) = (self.asked.clone(), self.ordered.clone());
        let pick =
            if self.instances.is_empty() { None } else { Some(self.chance.between(0, self.instances.len() as u64)) };
        let target = pick.map(|n| self.instances[usize::try_from(n).unwrap()]);
        let verb = self.chance.between(0, 10);
        let user_name = format!("user{}", self.chance.between(0, 1_000_000));
        tokio::spawn(async move {
            let caller = caller("p");
            let request = async {
                let said = match (target, verb) {
                    (None, _) | (_, 0 | 1) => {
                        app.create_instance(&caller, "r", order()).await.map(|(instance, _, accepted)| {
                            ordered.lock().unwrap().push(instance.id);
                            (instance.id, accepted)
                        })
                    }
                    (Some(id), 2..=4) => app.restart_instance(&caller, "r", id).await.map(|accepted| (id, accepted)),
                    (Some(id), 5) => {
                        let flavor = if chance.one_in(2) { "1" } else { "2" };
                        app.resize_flavor(&caller, "r", id, flavor).await.map(|accepted| (id, accepted))
                    }
                    (Some(id), 6..=8) => {
                        let made = app.create_users(&caller, "r", id, vec![user(&user_name, &[])]).await;
                        made.map(|accepted| {
                            asked.lock().unwrap().push((id, accepted.operation.to_string(), user_name));
                            (id, accepted)
                        })
                    }
                    (Some(id), _) => app.delete_instance(&caller, "r", id).await.map(|accepted| (id, accepted)),
                };
                match said {
                    Ok((id, accepted)) => {
                        chance.note(format!("{name} accepts {verb} for {id}: {}", accepted.operation))
                    }
                    Err(error) => chance.note(format!("{name} answers {verb}: {error}")),
                }
            };
            tokio::select! {
                biased;
                () = end.cancelled() => {}
                () = request => {}
            }
        });
    }

    /// Something goes wrong, and is mended after a while.
    async fn harm(&mut self) {
        let name = NAMES[usize::from(self.chance.one_in(2))];
        let guests: Vec<InstanceId> = self.world.guests.lock().unwrap().keys().copied().collect();
        let target = if guests.is_empty() {
            None
        } else {
            Some(guests[usize::try_from(self.chance.between(0, guests.len() as u64)).unwrap()])
        };
        match (self.chance.between(0, 6), target) {
            (0 | 1, _) => {
                self.chance.note(format!("controller {name} is killed"));
                self.controllers.remove(name);
                self.world.changed();
                self.chance.delay(10, 40_000).await;
                self.start(name).await;
            }
            (2 | 3, _) => {
                let Some(controller) = self.controllers.get(name) else { return };
                let (sleep, chance) = (controller.sleep.clone(), self.chance.clone());
                sleep.set(true);
                chance.note(format!("controller {name} sleeps"));
                tokio::spawn(async move {
                    chance.delay(500, 90_000).await;
                    chance.note(format!("controller {name} wakes"));
                    sleep.set(false);
                });
            }
            (4, Some(id)) => {
                let Some(guest) = self.world.guest(id) else { return };
                self.chance.note(format!("agent {id} is killed"));
                guest.kill();
                self.world.changed();
                let (world, chance) = (self.world.clone(), self.chance.clone());
                tokio::spawn(async move {
                    chance.delay(200, 5000).await;
                    if world.guest(id).is_some() && guest.life().is_none() {
                        guest.start();
                        world.changed();
                    }
                });
            }
            (_, Some(id)) => {
                self.chance.note(format!("{name} and {id} do not reach each other"));
                self.world.cut.lock().unwrap().insert((name, id));
                self.world.changed();
                let (world, chance) = (self.world.clone(), self.chance.clone());
                tokio::spawn(async move {
                    chance.delay(500, 60_000).await;
                    world.cut.lock().unwrap().remove(&(name, id));
                    world.changed();
                });
            }
            (_, None) => {}
        }
    }

    async fn heal(&mut self) {
        self.chance.note("all is well from here");
        self.world.faulty.store(false, Ordering::SeqCst);
        self.world.cut.lock().unwrap().clear();
        for controller in self.controllers.values() {
            controller.sleep.set(false);
        }
        let guests: Vec<_> = self.world.guests.lock().unwrap().values().cloned().collect();
        for guest in guests.iter().filter(|guest| guest.life().is_none()) {
            guest.start();
        }
        self.world.changed();
    }

    /// Waits until nothing is under way.
    async fn settle(&self) -> Result<(), String> {
        let deadline = Instant::now() + SETTLED;
        let active = "select kind || ' ' || id || ' ' || status || coalesce(': ' || error, '') from operation where finished is null";
        loop {
            let left: Vec<String> = self.server.ask(active).iter().map(|row| row.read(0)).collect();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!("still under way an hour later: {left:?}"));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn texts(&self, sql: &str) -> Vec<String> {
        self.server.ask(sql).iter().map(|row| row.read(0)).collect()
    }

    fn check(&self) -> Result<(), String> {
        let nothing = |what: &str, sql: &str| {
            let found = self.texts(sql);
            if found.is_empty() { Ok(()) } else { Err(format!("{what}: {found:?}")) }
        };
        nothing("written by who had lost the lease", "select what from violation")?;
        nothing(
            "left of deleted instances",
            "select i.id from instance i where i.deleted is not null and (exists \
                 (select 1 from assignment a where a.instance_id = i.id) or exists (select 1 from agent g where g.instance_id = i.id) \
                 or exists (select 1 from agent_link l where l.instance_id = i.id) or exists \
                 (select 1 from enrolment_token t where t.instance_id = i.id))",
        )?;
        nothing("targets that are held for nothing", "select resource from operation_target where active")?;
        nothing(
            "tasks that nobody does",
            "select id || ' ' || task from instance where deleted is null and task not in \
                 ('none', 'building_error', 'error', 'restart_required')",
        )?;
        nothing(
            "use that is counted wrong",
            "select resource || ' ' || in_use from usage where resource = 'instances' \
                 and in_use <> (select count(*) from instance where deleted is null)",
        )?;
        nothing("secrets of operations that have ended", "select id from operation where state <> '{}'")?;
        let wanted =
            self.texts("select id from instance where deleted is null and task <> 'building_error' order by id");
        let guests = self.world.guests.lock().unwrap();
        let hosts: Vec<String> = guests.keys().map(ToString::to_string).collect();
        if hosts != wanted {
            return Err(format!("hosts {hosts:?}, instances {wanted:?}"));
        }
        for guest in guests.values() {
            let engine = guest.engine.lock().unwrap().clone();
            if let Some((key, count)) = engine.effects.iter().find(|(_, count)| **count > 1) {
                return Err(format!("{key} was done {count} times"));
            }
        }
        for (id, operation, name) in &*self.asked.lock().unwrap() {
            let done = !self
                .texts(&format!("select id from operation where id = '{operation}' and status = 'done'"))
                .is_empty();
            if let (true, Some(guest)) = (done, guests.get(id))
                && !guest.engine.lock().unwrap().users.contains(name)
            {
                return Err(format!("{operation} is done, and {name} is not there"));
            }
        }
        Ok(())
    }
}
