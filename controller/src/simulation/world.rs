//! What controllers share, and each one's way to the database. Hosts are in `hosts.rs`, the connections to agents in `network.rs`.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::crash::Crash;
use super::rng::Rng;
use crate::authority::AgentName;
use crate::ids::InstanceId;
use crate::store::sql::simulated::{Gate, Moment};

/// The names of the controllers.
pub(super) const NAMES: [&str; 2] = ["one", "two"];

/// What does not pass between a controller and an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    Both,
    /// What the controller says.
    Requests,
    /// What the agent says.
    Replies,
}

/// By controller and instance.
pub(super) type Cuts = BTreeMap<(&'static str, InstanceId), Cut>;

/// Where agents reach a life of a controller.
#[derive(Clone)]
pub(super) struct Listener {
    pub(super) machine: Machine,
    /// Ends with this life.
    pub(super) end: CancellationToken,
    pub(super) accepted: mpsc::UnboundedSender<(DuplexStream, AgentName)>,
}

/// Everything but the controllers and the hosts.
pub(super) struct World {
    pub(super) crash: Arc<Crash>,
    pub(super) cuts: watch::Sender<Cuts>,
    /// The lives of controllers that can be reached.
    pub(super) listeners: Mutex<BTreeMap<&'static str, Listener>>,
    /// What ends the last connection of a controller and an instance.
    pub(super) connections: Mutex<BTreeMap<(&'static str, InstanceId), CancellationToken>>,
    pub(super) addresses: AtomicU8,
    pub(super) directory: TempDir,
    /// How many hosts were made, for a directory of its own each.
    pub(super) made: AtomicU8,
    /// Names of controllers that have just died.
    pub(super) crashes: mpsc::UnboundedSender<&'static str>,
}

impl Deref for World {
    type Target = Crash;

    fn deref(&self) -> &Crash {
        &self.crash
    }
}

impl World {
    /// A world, and the names of the controllers that die in it.
    pub(super) fn new(rng: Rng) -> (Arc<Self>, mpsc::UnboundedReceiver<&'static str>) {
        let (crashes, died) = mpsc::unbounded_channel();
        let world = Self {
            crash: Arc::new(Crash::new(rng)),
            cuts: watch::Sender::default(),
            listeners: Mutex::default(),
            connections: Mutex::default(),
            addresses: AtomicU8::new(0),
            directory: TempDir::new_in("/dev/shm").unwrap(),
            made: AtomicU8::new(0),
            crashes,
        };
        (Arc::new(world), died)
    }
}

/// The machine under a life of a controller.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) name: &'static str,
    /// Stopped (SIGSTOP): whatever the controller asks for waits.
    asleep: watch::Sender<bool>,
    /// Whether it has started, and can die.
    up: Arc<AtomicBool>,
}

impl Machine {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, asleep: watch::Sender::new(false), up: Arc::default() }
    }

    /// Stops it for a while.
    pub(super) fn fall_asleep(&self, rng: &Rng, at: impl std::fmt::Debug) {
        if self.asleep.send_replace(true) {
            return;
        }
        rng.fault("controllers that slept", format!("controller {} sleeps at {at:?}", self.name));
        let (machine, rng) = (self.clone(), rng.clone());
        tokio::spawn(async move {
            // A lease is 30 s.
            rng.delay(500, 90_000).await;
            rng.note(format!("controller {} wakes", machine.name));
            machine.wake();
        });
    }

    pub(super) fn wake(&self) {
        self.asleep.send_replace(false);
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }

    pub(super) fn set_up(&self) {
        self.up.store(true, Ordering::SeqCst);
    }

    /// Waits until it runs.
    pub(super) async fn runs(&self) {
        let mut asleep = self.asleep.subscribe();
        // The sender lives in `self`.
        let _ = asleep.wait_for(|asleep| !asleep).await;
    }
}

/// The way of one controller to the database.
pub(super) fn gate(world: &Arc<World>, machine: &Machine) -> Gate {
    let (world, machine) = (world.clone(), machine.clone());
    Arc::new(move |moment| -> BoxFuture<'static, sqlx::Result<()>> {
        let (world, machine) = (world.clone(), machine.clone());
        Box::pin(async move {
            if machine.is_up() && world.fails(800) {
                machine.fall_asleep(&world.rng, moment);
            }
            machine.runs().await;
            tokio::time::sleep(Duration::from_micros(world.rng.between(50, 3000))).await;
            machine.runs().await;
            world.rng.mark((machine.name, moment));
            if machine.is_up() && world.fails(1000) {
                let died = format!("controller {} dies at {moment:?}", machine.name);
                world.rng.fault("controllers that died at a statement or commit", died);
                // Whoever listens ends this life, and with it whoever waits here.
                let _ = world.crashes.send(machine.name);
                std::future::pending::<()>().await;
            }
            if moment == Moment::News && world.fails(10) {
                world.rng.fault("announcements that were missed", format!("{} misses an announcement", machine.name));
                return Err(sqlx::Error::Protocol("connection reset by peer".to_owned()));
            }
            if world.fails(400) {
                let broken = format!("the database breaks a connection of {} at {moment:?}", machine.name);
                world.rng.fault("database connections that broke", broken);
                return Err(sqlx::Error::Protocol("connection reset by peer".to_owned()));
            }
            Ok(())
        })
    })
}
