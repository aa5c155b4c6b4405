//! The network between controllers and agents, which carries bytes: a connection is slow, may break, may pass nothing on in one
//! direction or in both, and ends with the process at either end, whether the other is told or not.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use trove_agent::dial;

use super::world::{Cut, Cuts, Listener, NAMES, World};
use crate::authority::AgentName;
use crate::ids::InstanceId;

/// What is under way in one direction at most, bytes.
const BUFFER: usize = 64 * 1024;

/// One connection.
struct Connection {
    world: Arc<World>,
    instance: InstanceId,
    agent_end: CancellationToken,
    controller: Listener,
    broken: CancellationToken,
}

impl World {
    /// Connects an agent, whose life ends with `end`, to the controller at an address. Its name leads to it, whatever the port.
    pub(super) async fn dial(
        self: Arc<Self>,
        agent: AgentName,
        end: CancellationToken,
        address: String,
    ) -> Result<DuplexStream> {
        match end.run_until_cancelled(self.connect(agent, &end, &address)).await {
            Some(connected) => connected,
            // A process that was killed does nothing any more.
            None => std::future::pending().await,
        }
    }

    async fn connect(
        self: &Arc<Self>,
        agent: AgentName,
        agent_end: &CancellationToken,
        address: &str,
    ) -> Result<DuplexStream> {
        let name = NAMES.into_iter().find(|name| address.starts_with(name)).context("no such host")?;
        self.rng.delay(1, 50).await;
        let is_open = async {
            let mut cuts = self.cuts.subscribe();
            // The sender lives in the world.
            let _ = cuts.wait_for(|cuts| !cuts.contains_key(&(name, agent.instance))).await;
        };
        timeout(dial::LIMIT, is_open).await.context("nobody answers")?;
        let refused = "the connection is refused";
        let controller = self.listeners.lock().unwrap().get(name).cloned().context(refused)?;
        let ((near, of_agent), (accepted, of_controller)) = (duplex(BUFFER), duplex(BUFFER));
        controller.accepted.send((accepted, agent)).ok().context(refused)?;
        let broken = CancellationToken::new();
        self.connections.lock().unwrap().insert((controller.machine.name, agent.instance), broken.clone());
        let (world, instance, agent_end) = (self.clone(), agent.instance, agent_end.clone());
        let connection = Connection { world, instance, agent_end, controller, broken };
        tokio::spawn(connection.carry(of_agent, of_controller));
        Ok(near)
    }

    /// Breaks the connection of a controller and an agent, if there is one.
    pub(super) fn break_connection(&self, name: &'static str, instance: InstanceId) {
        let connection = self.connections.lock().unwrap().remove(&(name, instance));
        if let Some(broken) = connection {
            self.rng.fault("connections that broke", format!("the connection of {name} and {instance} breaks"));
            broken.cancel();
        }
    }

    /// A controller and an agent do not reach each other for a while.
    pub(super) fn cut_link(self: &Arc<Self>, name: &'static str, instance: InstanceId) {
        let way = self.rng.pick(&[Cut::Both, Cut::Requests, Cut::Replies]);
        let kind =
            if way == Cut::Both { "connections that were cut" } else { "connections that were cut in one direction" };
        self.rng.fault(kind, format!("{name} and {instance} do not reach each other: {way:?}"));
        self.cuts.send_modify(|cuts| {
            cuts.insert((name, instance), way);
        });
        let world = self.clone();
        tokio::spawn(async move {
            world.rng.delay(500, 150_000).await;
            world.cuts.send_modify(|cuts| {
                cuts.remove(&(name, instance));
            });
        });
    }
}

impl Connection {
    /// Carries bytes both ways for as long as it lives.
    async fn carry(self, agent: DuplexStream, controller: DuplexStream) {
        let ((mut from_agent, to_agent), (mut from_controller, to_controller)) = (split(agent), split(controller));
        let mut survivor = tokio::select! {
            biased;
            () = self.broken.cancelled() => return,
            () = self.agent_end.cancelled() => {
                drop(from_agent);
                from_controller
            }
            () = self.controller.end.cancelled() => {
                drop(from_controller);
                from_agent
            }
            () = self.pass(Cut::Requests, &mut from_controller, to_agent) => return,
            () = self.pass(Cut::Replies, &mut from_agent, to_controller) => return,
        };
        if self.world.fails(3) {
            let (name, instance) = (self.controller.machine.name, self.instance);
            let untold = format!("the connection of {name} and {instance} has one end, which is not told");
            self.world.rng.fault("ends of connections that the other side was not told of", untold);
            // What is said into it comes to nobody.
            let _ = tokio::io::copy(&mut survivor, &mut tokio::io::sink()).await;
        }
    }

    /// Carries bytes one way until they end.
    async fn pass(&self, way: Cut, from: &mut ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>) {
        let (world, machine) = (&self.world, &self.controller.machine);
        let mut bytes = vec![0; BUFFER];
        while let Ok(n) = from.read(&mut bytes).await {
            machine.runs().await;
            world.rng.delay(1, 50).await;
            self.is_open(way).await;
            machine.runs().await;
            if world.fails(150) {
                let (name, instance) = (machine.name, self.instance);
                world.rng.fault("connections that broke", format!("{name} and {instance} lose their connection"));
                return;
            }
            world.rng.mark((machine.name, self.instance));
            if n == 0 || to.write_all(&bytes[..n]).await.is_err() {
                return;
            }
        }
    }

    /// Waits for as long as nothing passes this way; what was held back comes late, or never.
    async fn is_open(&self, way: Cut) {
        let mut cuts = self.world.cuts.subscribe();
        let link = (self.controller.machine.name, self.instance);
        let is_cut = |cuts: &Cuts| cuts.get(&link).is_some_and(|cut| *cut == way || *cut == Cut::Both);
        if !is_cut(&cuts.borrow()) {
            return;
        }
        // The sender lives in the world.
        let _ = cuts.wait_for(|cuts| !is_cut(cuts)).await;
        if self.world.rng.one_in(2) {
            std::future::pending::<()>().await;
        }
    }
}
