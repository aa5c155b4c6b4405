//! What controllers share: the database, the hosts, and the wires between them, each of which may fail.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use trove_proto::v1;

use super::chance::Chance;
use super::guest::Guest;
use crate::agents::{AgentError, AgentState, Agents, OnProgress};
use crate::compute::{Compute, ComputeError, HostSpec};
use crate::ids::InstanceId;
use crate::state::HostState;
use crate::store::sql::simulated::Gate;

/// Everything but the controllers.
pub(super) struct World {
    pub(super) chance: Chance,
    /// Whether things still go wrong.
    pub(super) faulty: AtomicBool,
    pub(super) guests: Mutex<BTreeMap<InstanceId, Guest>>,
    /// Pairs of a controller's name and a host that do not reach each other.
    pub(super) cut: Mutex<BTreeSet<(&'static str, InstanceId)>>,
    addresses: AtomicU8,
    directory: TempDir,
    /// How many hosts were made, for a directory of its own each.
    made: AtomicU8,
    /// Changes whenever somebody may be reached who was not, or the other way round.
    pub(super) reach: watch::Sender<u64>,
}

impl World {
    pub(super) fn new(chance: Chance) -> Arc<Self> {
        Arc::new(Self {
            chance,
            faulty: AtomicBool::new(true),
            guests: Mutex::default(),
            cut: Mutex::default(),
            addresses: AtomicU8::new(0),
            directory: TempDir::new_in("/dev/shm").unwrap(),
            made: AtomicU8::new(0),
            reach: watch::Sender::new(0),
        })
    }

    /// Whether something goes wrong now, once in `n` times.
    fn fails(&self, n: u64) -> bool {
        self.faulty.load(Ordering::SeqCst) && self.chance.one_in(n)
    }

    pub(super) fn changed(&self) {
        self.reach.send_modify(|count| *count += 1);
    }

    pub(super) fn guest(&self, instance: InstanceId) -> Option<Guest> {
        self.guests.lock().unwrap().get(&instance).cloned()
    }

    fn connected(&self, controller: &'static str, instance: InstanceId) -> Option<Guest> {
        let cut = self.cut.lock().unwrap().contains(&(controller, instance));
        self.guest(instance).filter(|guest| !cut && guest.life().is_some())
    }
}

/// Whether a controller is stopped (SIGSTOP): whatever it asks for waits.
#[derive(Clone)]
pub(super) struct Sleep(watch::Sender<bool>);

impl Sleep {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(super) fn set(&self, asleep: bool) {
        self.0.send_replace(asleep);
    }

    async fn through(&self) {
        let mut asleep = self.0.subscribe();
        // The sender lives in `self`.
        let _ = asleep.wait_for(|asleep| !asleep).await;
    }
}

/// The way of one controller to the database.
pub(super) fn gate(world: &Arc<World>, sleep: &Sleep) -> Gate {
    let (world, sleep) = (world.clone(), sleep.clone());
    Arc::new(move |moment| -> BoxFuture<'static, sqlx::Result<()>> {
        let (world, sleep) = (world.clone(), sleep.clone());
        Box::pin(async move {
            sleep.through().await;
            tokio::time::sleep(Duration::from_micros(world.chance.between(50, 3000))).await;
            sleep.through().await;
            if world.fails(400) {
                world.chance.note(format!("the database breaks a connection at {moment:?}"));
                return Err(sqlx::Error::Protocol("connection reset by peer".to_owned()));
            }
            Ok(())
        })
    })
}

/// The hosts, as one controller reaches them.
pub(super) struct Hosts {
    pub(super) world: Arc<World>,
    pub(super) sleep: Sleep,
}

impl Hosts {
    async fn call(&self, what: &str) -> Result<(), ComputeError> {
        self.sleep.through().await;
        self.world.chance.delay(1, 300).await;
        self.sleep.through().await;
        if self.world.fails(30) {
            return Err(ComputeError::Transient(format!("{what}: the request or its answer was lost")));
        }
        Ok(())
    }
}

#[async_trait]
impl Compute for Hosts {
    async fn choose_address(&self, _instance: InstanceId, _port: u16) -> Result<IpAddr, ComputeError> {
        self.call("choose an address").await?;
        let n = self.world.addresses.fetch_add(1, Ordering::SeqCst);
        Ok(Ipv4Addr::new(127, 0, 7, n).into())
    }

    async fn ensure_host(&self, spec: &HostSpec) -> Result<(), ComputeError> {
        self.call("make a host").await?;
        let world = &self.world;
        if world.guest(spec.instance).is_none() {
            world.chance.note(format!("host {} is made", spec.instance));
            let n = world.made.fetch_add(1, Ordering::SeqCst);
            let guest = Guest::new(spec.instance, world.directory.path().join(n.to_string()), world.chance.clone());
            world.guests.lock().unwrap().insert(spec.instance, guest.clone());
            let world = world.clone();
            tokio::spawn(async move {
                world.chance.delay(50, 3000).await;
                // It may have been removed meanwhile.
                if world.guest(guest.instance).is_some() && guest.life().is_none() {
                    guest.start();
                    world.changed();
                }
            });
        } else if let Some(guest) = world.guest(spec.instance).filter(|guest| guest.life().is_none()) {
            world.chance.note(format!("host {} is started", spec.instance));
            guest.start();
            world.changed();
        }
        self.call("make a host").await
    }

    async fn stop_host(&self, instance: InstanceId) -> Result<(), ComputeError> {
        self.call("stop a host").await?;
        if let Some(guest) = self.world.guest(instance) {
            self.world.chance.note(format!("host {instance} is stopped"));
            guest.kill();
            self.world.changed();
        }
        self.call("stop a host").await
    }

    async fn delete_host(&self, instance: InstanceId) -> Result<(), ComputeError> {
        self.call("delete a host").await?;
        let guest = self.world.guests.lock().unwrap().remove(&instance);
        if let Some(guest) = guest {
            self.world.chance.note(format!("host {instance} is deleted"));
            guest.kill();
            self.world.changed();
        }
        self.call("delete a host").await
    }

    async fn describe(&self, instance: InstanceId) -> Result<HostState, ComputeError> {
        self.call("describe a host").await?;
        let guest = self.world.guest(instance);
        Ok(guest.map_or(
            HostState::Absent,
            |guest| {
                if guest.life().is_some() { HostState::Active } else { HostState::Dead }
            },
        ))
    }

    async fn list(&self) -> Result<Vec<InstanceId>, ComputeError> {
        self.call("list hosts").await?;
        Ok(self.world.guests.lock().unwrap().keys().copied().collect())
    }
}

/// The agents, as one controller hears them.
pub(super) struct Wires {
    pub(super) world: Arc<World>,
    pub(super) sleep: Sleep,
    pub(super) controller: &'static str,
    states: Mutex<BTreeMap<InstanceId, watch::Sender<AgentState>>>,
}

impl Wires {
    pub(super) fn new(world: Arc<World>, sleep: Sleep, controller: &'static str) -> Self {
        Self { world, sleep, controller, states: Mutex::default() }
    }

    fn sender(&self, instance: InstanceId) -> watch::Sender<AgentState> {
        let new = || watch::Sender::new(AgentState::unheard());
        self.states.lock().unwrap().entry(instance).or_insert_with(new).clone()
    }

    /// What is heard of an agent now, as far as it changed.
    pub(super) fn hear(&self, instance: InstanceId) {
        let guest = self.world.connected(self.controller, instance);
        self.sender(instance).send_if_modified(|state| {
            let before = state.clone();
            state.connected = guest.is_some();
            if let Some(guest) = guest {
                state.service = guest.service();
                state.assignment_generation = guest.generation();
            }
            *state != before
        });
    }

    async fn reach(&self, instance: InstanceId) -> Result<Guest, AgentError> {
        self.sleep.through().await;
        self.world.chance.delay(1, 50).await;
        self.sleep.through().await;
        self.world.connected(self.controller, instance).ok_or(AgentError::Unreachable(instance))
    }

    /// Asks once for a job and hears of its end, unless something gets lost.
    async fn ask(&self, instance: InstanceId, start: &v1::Start) -> Option<Result<(), v1::Error>> {
        let guest = self.reach(instance).await.ok()?;
        let life = guest.life()?;
        if self.world.fails(10) {
            return None;
        }
        let mut attached = life.jobs.start(start.clone());
        if self.world.fails(10) {
            // The same request comes twice.
            attached = life.jobs.start(start.clone());
        }
        if self.world.fails(10) {
            return None;
        }
        let ended = tokio::select! {
            biased;
            () = life.end.cancelled() => return None,
            ended = attached.state.wait_for(|state| state.ended.is_some()) => ended.ok()?.ended.clone()?,
        };
        self.world.changed();
        self.sleep.through().await;
        self.world.chance.delay(1, 50).await;
        self.sleep.through().await;
        if self.world.fails(10) {
            return None;
        }
        Some(ended.map_or(Ok(()), Err))
    }
}

#[async_trait]
impl Agents for Wires {
    fn state(&self, instance: InstanceId) -> watch::Receiver<AgentState> {
        let receiver = self.sender(instance).subscribe();
        self.hear(instance);
        receiver
    }

    async fn run(&self, instance: InstanceId, start: v1::Start, progress: OnProgress<'_>) -> Result<(), AgentError> {
        let deadline = Instant::now() + Duration::from_secs(start.deadline_s.into());
        progress(v1::Progress { stage: "sent".to_owned(), ..v1::Progress::default() });
        let mut state = self.state(instance);
        let asked = async {
            loop {
                if state.wait_for(|state| state.connected).await.is_err() {
                    std::future::pending::<()>().await;
                }
                if let Some(ended) = self.ask(instance, &start).await {
                    return ended;
                }
                self.world.chance.delay(10, 500).await;
            }
        };
        match timeout_at(deadline, asked).await {
            Err(_) => Err(AgentError::Unreachable(instance)),
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(AgentError::Refused { kind: error.kind(), message: error.message }),
        }
    }

    async fn assign(&self, instance: InstanceId, request: v1::AssignRequest) -> Result<u64, AgentError> {
        let life = self.reach(instance).await?.life().ok_or(AgentError::Unreachable(instance))?;
        let refused = |kind, message: String| AgentError::Refused { kind, message };
        let admitted = life.keeper.admit(request.fence);
        if !admitted.map_err(|error| refused(v1::ErrorKind::Transient, error.to_string()))? {
            return Err(refused(v1::ErrorKind::Fenced, "fenced".to_owned()));
        }
        let assigned = life.keeper.assign(request.generation, request.specification.unwrap_or_default());
        assigned.map_err(|error| refused(v1::ErrorKind::Transient, error.to_string()))?;
        self.world.changed();
        let in_force = life.keeper.assigned().borrow().generation;
        Ok(in_force)
    }

    async fn list_databases(&self, instance: InstanceId) -> Result<Vec<v1::Database>, AgentError> {
        self.reach(instance).await.map(|_| Vec::new())
    }

    async fn list_users(&self, instance: InstanceId) -> Result<Vec<v1::User>, AgentError> {
        let guest = self.reach(instance).await?;
        let users = guest.engine.lock().unwrap().users.clone();
        let account = |name| Some(v1::Account { name, host: "%".to_owned() });
        Ok(users.into_iter().map(|name| v1::User { account: account(name), databases: Vec::new() }).collect())
    }

    async fn get_user(&self, instance: InstanceId, account: v1::Account) -> Result<Option<v1::User>, AgentError> {
        let users = self.list_users(instance).await?;
        Ok(users.into_iter().find(|user| user.account.as_ref().is_some_and(|known| known.name == account.name)))
    }

    async fn ping(&self, instance: InstanceId) -> Result<(), AgentError> {
        self.reach(instance).await.map(|_| ())
    }

    async fn diagnose(&self, instance: InstanceId) -> Result<v1::GetDiagnosticsReply, AgentError> {
        self.reach(instance).await.map(|_| v1::GetDiagnosticsReply::default())
    }

    fn forget(&self, instance: InstanceId) {
        self.states.lock().unwrap().remove(&instance);
    }
}
