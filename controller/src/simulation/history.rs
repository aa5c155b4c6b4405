//! One history: minutes in which users ask and things go wrong, then calm, in which what must be true is looked at, all is
//! asked once more, and all is deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sqlx::Row as _;
use tokio::time::Instant;

use super::controller::Ground;
use super::faults::Controllers;
use super::guest::Guest;
use super::invariants::Invariants;
use super::rng::{Rng, Tally};
use super::workload::{GROUPS, Ledger, Renamed, Request};
use super::world::{Machine, NAMES, World, gate};
use crate::app::App;
use crate::authority::Authorities;
use crate::config::Config;
use crate::ids::{ConfigurationId, InstanceId, OperationId, ProjectId, VersionId, seeded};
use crate::seal::Seal;
use crate::store::configurations::NewRow as NewGroup;
use crate::store::sql::simulated::{Link, Server};
use crate::store::{Clock, Store};
use crate::testing::store as testing_store;

/// When every history begins, microseconds since 1970.
const BEGIN: i64 = 1_800_000_000_000_000;
/// For how long users ask and things go wrong, ms.
const FAULTY: u64 = 180_000;
/// When everything must have ended, after that: the deadlines of a creation and its undos, and a delay of a retry.
const SETTLED: Duration = Duration::from_secs(1500);
/// How often it is looked whether it has.
const ASKED: Duration = Duration::from_secs(3);
/// For the reconcilers, which look once a minute.
const RECONCILED: Duration = Duration::from_secs(130);

/// What a history came to.
pub(super) struct Outcome {
    /// What happened.
    pub(super) lines: Vec<String>,
    /// Operations, by kind and end.
    pub(super) operations: Tally,
    /// What went wrong, by kind.
    pub(super) faults: Tally,
    /// Sum over everything that happened.
    pub(super) trace: u64,
    /// What was not as it must be.
    pub(super) ended: Result<(), String>,
}

/// Runs the history of a seed.
pub(super) fn run(seed: u64) -> Outcome {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    seeded::start(seed);
    let outcome = runtime.block_on(async {
        let rng = Rng::new(seed);
        let history = History::begin(rng.clone()).await;
        let ended = history.live().await;
        let operations = history.operations();
        history.end();
        Outcome { lines: rng.history(), operations, faults: rng.faults(), trace: rng.trace(), ended }
    });
    seeded::end();
    outcome
}

/// The number of the operation that was asked for last.
fn last_asked(server: &Server) -> i64 {
    server.ask("select coalesce(max(seq), 0) from operation").first().map_or(0, |row| row.get(0))
}

/// The configuration groups that users attach.
async fn make_groups(store: &Store, version: VersionId) {
    for (name, values) in GROUPS {
        let group = NewGroup {
            id: ConfigurationId::random(),
            project: ProjectId("p".to_owned()),
            name: name.to_owned(),
            description: None,
            version,
            values: serde_json::from_str(values).unwrap(),
        };
        let mut tx = store.begin().await.unwrap();
        store.insert_configuration(&mut tx, &group).await.unwrap();
        tx.commit().await.unwrap();
    }
}

struct History {
    rng: Rng,
    world: Arc<World>,
    ground: Arc<Ground>,
    controllers: Arc<Controllers>,
    ledger: Arc<Ledger>,
}

impl History {
    async fn begin(rng: Rng) -> Self {
        let (world, mut died) = World::new(rng.clone());
        let server = Store::simulated_server(BEGIN, include_str!("watch.sql"));
        let own = Link::new(server.clone(), gate(&world, &Machine::new("nobody")), 0);
        let store = Store::simulated(own, Clock::simulated(server.now()), Seal::new(&[5; 32]));
        let version = testing_store::register(&store, &testing_store::manifest()).await;
        make_groups(&store, version).await;
        let authorities = Arc::new(Authorities::load(&store).await.unwrap());
        let mut config = Config::default();
        // Whoever runs the tests.
        config.process.allow_root = true;
        // Agents go by the clock of the machine that runs the tests.
        config.agents.certificate_lifetime = Duration::from_secs(100 * 365 * 86_400);
        let config = Arc::new(config);
        let (guests, lives) = (Arc::default(), AtomicI64::new(1));
        let ground = Arc::new(Ground { world: world.clone(), guests, server, authorities, config, lives });
        let controllers = Controllers::new(ground.clone());
        let all = controllers.clone();
        tokio::spawn(async move {
            while let Some(name) = died.recv().await {
                all.kill(name);
            }
        });
        Self { rng, world, ground, controllers, ledger: Arc::default() }
    }

    async fn live(&self) -> Result<(), String> {
        let truths = Invariants { ground: self.ground.clone(), ledger: self.ledger.clone() };
        for name in NAMES {
            self.controllers.start(name).await;
        }
        self.world.faulty.store(true, Ordering::SeqCst);
        self.suffer().await;
        self.heal().await;
        self.settle().await?;
        tokio::time::sleep(RECONCILED).await;
        // What came late may have been done meanwhile, and is to be reconciled too.
        self.settle().await?;
        tokio::time::sleep(RECONCILED).await;
        truths.check()?;
        self.rng.note("all is asked once more");
        self.ask_once_more().await?;
        tokio::time::sleep(RECONCILED).await;
        truths.check()?;
        self.rng.note("all is deleted");
        self.delete_all().await?;
        tokio::time::sleep(RECONCILED).await;
        truths.check_nothing_left()
    }

    /// Lets users ask, and things go wrong.
    async fn suffer(&self) {
        let begun = Instant::now();
        let mut plan: Vec<(u64, bool)> =
            (0..self.rng.between(15, 45)).map(|_| (self.rng.between(0, FAULTY), true)).collect();
        plan.extend((0..self.rng.between(4, 14)).map(|_| (self.rng.between(0, FAULTY), false)));
        plan[0].0 = self.rng.between(0, 1000);
        plan.sort_unstable();
        for (at, asks) in plan {
            tokio::time::sleep_until(begun + Duration::from_millis(at)).await;
            if asks { self.ask() } else { self.controllers.strike() }
        }
        tokio::time::sleep_until(begun + Duration::from_millis(FAULTY + 5000)).await;
    }

    fn instances(&self, which: &str) -> Vec<InstanceId> {
        let sql = format!("select id from instance where {which} order by created, id");
        self.ground.server.ask(&sql).iter().map(|row| row.get::<String, _>(0).parse().unwrap()).collect()
    }

    /// A user asks one of the controllers for something.
    fn ask(&self) {
        let name = self.rng.pick(&NAMES);
        let (app, end) = {
            let alive = self.controllers.alive.lock().unwrap();
            let Some(controller) = alive.get(name) else { return };
            (controller.app.clone(), controller.end.clone())
        };
        let there = self.instances("deleted is null");
        let wish = Request::draw(&self.rng, there.len());
        let id = if there.is_empty() { InstanceId::random() } else { self.rng.pick(&there) };
        let (rng, ledger, server) = (self.rng.clone(), self.ledger.clone(), self.ground.server.clone());
        tokio::spawn(async move {
            let request = ledger.ask(wish.clone());
            if matches!(wish, Request::ResetStatus | Request::ResetTask | Request::ForceDelete) {
                ledger.reset.lock().unwrap().insert(id);
            }
            let (asked, last) = (Instant::now(), last_asked(&server));
            rng.note(format!("{name} is asked {request} {wish:?} of {id}"));
            let answer = tokio::select! {
                biased;
                () = end.cancelled() => None,
                answer = wish.ask(&app, &request, id) => Some(answer),
            };
            if let (Request::ResetStatus | Request::ResetTask, Some(Ok(_))) = (&wish, &answer) {
                ledger.resets.lock().unwrap().push((id, last, server.now()));
            }
            if let Request::Rename(new) = wish {
                let answered = matches!(answer, Some(Ok(_))).then(Instant::now);
                ledger.renamed.lock().unwrap().push(Renamed { instance: id, name: new, asked, answered });
            }
            match answer {
                None => rng.note(format!("{request} gets no answer")),
                Some(Err(error)) => rng.note(format!("{request} is answered: {}", crate::error::chain(&error))),
                Some(Ok(operation)) => {
                    rng.note(format!("{request} is accepted: {operation:?}"));
                    operation.into_iter().for_each(|operation| ledger.accept(&request, operation));
                }
            }
        });
    }

    async fn heal(&self) {
        self.rng.note("all is well from here");
        self.world.faulty.store(false, Ordering::SeqCst);
        self.world.cuts.send_modify(BTreeMap::clear);
        while self.controllers.alive.lock().unwrap().len() < NAMES.len() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        for controller in self.controllers.alive.lock().unwrap().values() {
            controller.machine.wake();
        }
    }

    /// Waits until nothing is under way.
    async fn settle(&self) -> Result<(), String> {
        let deadline = Instant::now() + SETTLED;
        let active = "select kind || ' ' || o.id || ' ' || o.status || coalesce(': ' || o.error, '') || ', claimed ' || \
                      coalesce((select claims from held h where h.operation_id = o.id), 0) || ' times, ' || s.name || ' ' || s.status || \
                      ', attempt ' || s.attempt || coalesce(': ' || s.error, '') from operation o \
                      join operation_step s on s.operation_id = o.id and s.n = o.position where o.finished is null";
        loop {
            let left: Vec<String> = self.ground.server.ask(active).iter().map(|row| row.get(0)).collect();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!("still under way {SETTLED:?} later: {left:?}"));
            }
            tokio::time::sleep(ASKED).await;
        }
    }

    /// Everything can still be asked of what was made, and is done by whoever takes it first.
    async fn ask_once_more(&self) -> Result<(), String> {
        let made = "deleted is null and task <> 'building_error' and exists (select 1 from operation o join operation_target t on t.operation_id = o.id \
                    where t.resource = instance.id and o.kind = 'create_instance' and o.status = 'done') \
                    and not exists (select 1 from operation o join operation_target t on t.operation_id = o.id where t.resource = instance.id and o.kind = 'delete_instance') \
                    and host in ('active', 'dead')";
        let ask = |id| {
            // A reboot helps whatever went before.
            let mut wishes = vec![Request::Reboot];
            match self.rng.between(0, 4) {
                0 => wishes.extend([Request::Restart, Request::CreateUser("last", Vec::new())]),
                1 => wishes.extend([Request::Configure(Some("great")), Request::Stop]),
                2 => wishes.extend([Request::GrowVolume(9), Request::Configure(None)]),
                _ => wishes.push(Request::ResizeFlavor("4")),
            }
            async move {
                for wish in wishes {
                    self.get_done(id, wish).await?;
                }
                Ok(())
            }
        };
        let asked = futures::future::join_all(self.instances(made).into_iter().map(ask)).await;
        asked.into_iter().collect()
    }

    async fn delete_all(&self) -> Result<(), String> {
        let delete = |id| self.get_done(id, Request::Delete);
        let deleted = futures::future::join_all(self.instances("deleted is null").into_iter().map(delete)).await;
        deleted.into_iter().collect()
    }

    fn app(&self) -> App {
        let alive = self.controllers.alive.lock().unwrap();
        alive[self.rng.pick(&NAMES)].app.clone()
    }

    /// When nothing goes wrong, what is asked is accepted and done.
    async fn get_done(&self, id: InstanceId, wish: Request) -> Result<(), String> {
        let request = self.ledger.ask(wish.clone());
        self.rng.note(format!("{request} {wish:?} is asked of {id}"));
        let what = format!("{request} {wish:?} of {id}");
        let operation = match wish.ask(&self.app(), &request, id).await {
            Ok(operation) => operation.ok_or_else(|| format!("{what} is no operation"))?,
            Err(error) => {
                let same = matches!(&wish, Request::ResizeFlavor(_) | Request::GrowVolume(_))
                    && matches!(error, crate::error::Error::BadRequest(_) | crate::error::Error::OverLimit { .. });
                return if same { Ok(()) } else { Err(format!("{what} is refused: {}", crate::error::chain(&error))) };
            }
        };
        self.ledger.accept(&request, operation);
        self.await_done(operation).await.map_err(|wrong| format!("{what}: {wrong}"))
    }

    async fn await_done(&self, operation: OperationId) -> Result<(), String> {
        let sql = format!(
            "select o.status, coalesce(o.error, ''), h.claims from operation o join held h on h.operation_id = o.id \
             where o.id = '{operation}' and o.finished is not null"
        );
        let deadline = Instant::now() + SETTLED;
        loop {
            if let Some(row) = self.ground.server.ask(&sql).first() {
                let (status, error, claims): (String, String, i64) = (row.get(0), row.get(1), row.get(2));
                return if (status.as_str(), claims) == ("done", 1) {
                    Ok(())
                } else {
                    Err(format!("{operation} is {status} after {claims} claims: {error}"))
                };
            }
            if Instant::now() >= deadline {
                return Err(format!("{operation} is still under way"));
            }
            tokio::time::sleep(ASKED).await;
        }
    }

    fn operations(&self) -> Tally {
        let rows = self.ground.server.ask("select kind || ' ' || status, count(*) from operation group by 1");
        rows.iter().map(|row| (row.get::<String, _>(0), row.get::<i64, _>(1).unsigned_abs())).collect()
    }

    /// Nothing refers to itself any more.
    fn end(self) {
        self.controllers.alive.lock().unwrap().clear();
        let guests = std::mem::take(&mut *self.ground.guests.lock().unwrap());
        guests.values().for_each(Guest::stop);
    }
}
