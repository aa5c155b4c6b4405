//! Tests of connections on a failing network. Agent and hubs are real; hosts, network and time are simulated by
//! turmoil. A seed always gives the same history. See docs/simulation.md.

mod parts;
mod seeds;

use std::sync::Arc;
use std::time::Duration;

use turmoil::Sim;

use self::parts::{CONTROLLERS, Order, World, agent, controller};
use crate::store::sql::simulated::Moment;

const LATENCY: Duration = Duration::from_millis(20);
/// Within this time each side notices that the other is gone: interval of PINGs, limit for the PONG, and some slack.
const KEEPALIVE: Duration = Duration::from_secs(16);
/// Within this time an agent reconnects if it can: greatest delay between two tries, and some slack.
const BACKOFF: Duration = Duration::from_secs(11);
/// Within this time everything is normal again: both of the above, and connections begun while the network held
/// packets.
const SETTLED: Duration = Duration::from_secs(45);

struct Network {
    sim: Sim<'static>,
    world: Arc<World>,
}

impl Network {
    /// A network in which both controllers are connected to the agent.
    fn settled(seed: u64) -> Self {
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(seed)
            .tick_duration(Duration::from_millis(20))
            .simulation_duration(Duration::from_secs(3600))
            // Fixed. A random latency would depend on the order of messages, which depends on the thread that measures
            // the volume.
            .min_message_latency(LATENCY)
            .max_message_latency(LATENCY);
        let (mut sim, world) = (builder.build(), World::new(seed));
        for name in CONTROLLERS {
            let world = world.clone();
            sim.host(name, move || controller(world.clone(), name));
        }
        let of_agent = world.clone();
        sim.host("agent", move || agent(of_agent.clone()));
        let mut network = Self { sim, world };
        network.until(BACKOFF, "both hear the agent", |world| CONTROLLERS.iter().all(|name| world.hears(name)));
        network
    }

    fn step(&mut self) {
        self.sim.step().unwrap();
        *self.world.now.lock().unwrap() = self.sim.elapsed();
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            self.step();
        }
    }

    /// Runs until a condition holds. Returns how long that took.
    fn until(&mut self, limit: Duration, what: &str, holds: impl Fn(&World) -> bool) -> Duration {
        let begun = self.sim.elapsed();
        while !holds(&self.world) {
            let history = || self.world.history().join("\n");
            assert!(self.sim.elapsed() - begun < limit, "not within {limit:?}: {what}\n{}", history());
            self.step();
        }
        self.sim.elapsed() - begun
    }

    /// Number of connections that a host considers open.
    fn connections(&mut self, host: &'static str) -> usize {
        let counted = Arc::new(std::sync::Mutex::new(0));
        let count = counted.clone();
        self.sim.client(format!("counter-{}", self.sim.elapsed().as_millis()), async move {
            *count.lock().unwrap() = turmoil::established_tcp_stream_count_on(host);
            Ok(())
        });
        self.step();
        *counted.lock().unwrap()
    }
}

/// Asserts that both controllers have exactly one connection to the agent, in memory and in the store.
fn is_whole(network: &mut Network) {
    for name in CONTROLLERS {
        assert!(network.world.hears(name) && network.world.is_written(name), "{name}");
        assert_eq!(network.connections(name), 1, "{name}");
    }
}

#[test]
fn a_partition_is_noticed_at_both_ends_and_the_agent_comes_back_by_itself() {
    let mut network = Network::settled(1);
    let order = network.world.order("one", Order::Assign);
    network.until(KEEPALIVE, "assigned", |world| world.answer(order).is_some());
    network.sim.partition("one", "agent");
    network.until(KEEPALIVE, "the controller notices", |world| !world.hears("one") && !world.is_written("one"));
    network.run_for(KEEPALIVE);
    network.sim.repair("one", "agent");
    // The agent has noticed, else it would not have connected again yet.
    network.until(BACKOFF, "the agent is back", |world| world.hears("one"));
    is_whole(&mut network);
    let generation = u64::try_from(order).unwrap();
    assert_eq!(network.world.kept_generation(), generation);
    assert_eq!(network.world.heard_generation("one"), generation);
    assert!(!network.world.was_noted("two has lost the agent"));
}

#[test]
fn a_one_way_partition_leaves_no_link_half_open() {
    for (from, to) in [("one", "agent"), ("agent", "one")] {
        let mut network = Network::settled(2);
        network.sim.partition_oneway(from, to);
        network.until(KEEPALIVE, "the controller notices", |world| !world.hears("one") && !world.is_written("one"));
        network.run_for(KEEPALIVE);
        assert!(!network.world.hears("one"));
        network.sim.repair_oneway(from, to);
        network.until(SETTLED, "the agent is back", |world| world.hears("one"));
        // By then both sides have closed connections that one of them had closed.
        network.run_for(KEEPALIVE);
        is_whole(&mut network);
    }
}

#[test]
fn what_a_network_held_back_is_not_done_twice() {
    let mut network = Network::settled(3);
    *network.world.job_takes.lock().unwrap() = Duration::from_secs(20);
    let order = network.world.order("one", Order::Job);
    network.run_for(Duration::from_secs(2));
    network.sim.hold("one", "agent");
    network.until(KEEPALIVE, "the controller notices", |world| !world.hears("one"));
    network.run_for(Duration::from_secs(30));
    assert_eq!(network.world.answer(order), None, "the job has ended, and nobody could say so");
    network.sim.release("one", "agent");
    network.until(SETTLED, "the result", |world| world.answer(order).is_some());
    assert_eq!(network.world.answer(order), Some(Ok(())));
    network.until(SETTLED, "the agent is back", |world| world.hears("one"));
    network.run_for(KEEPALIVE);
    assert_eq!(network.world.effects(order), 1);
    is_whole(&mut network);
}

#[test]
fn a_controller_that_crashes_and_returns_is_found_again_and_the_other_is_not_disturbed() {
    let mut network = Network::settled(4);
    *network.world.job_takes.lock().unwrap() = Duration::from_secs(20);
    let order = network.world.order("one", Order::Job);
    let sequence = |network: &Network| network.world.ask::<i64>("select sequence from agent");
    network.until(KEEPALIVE, "a report is written", |world| world.ask::<i64>("select count(*) from agent") == 1);
    network.run_for(Duration::from_secs(2));
    let before = sequence(&network);
    network.sim.crash("one");
    network.run_for(Duration::from_secs(30));
    network.sim.bounce("one");
    network.until(BACKOFF, "the agent is back", |world| world.hears("one"));
    network.until(BACKOFF, "the result of the job that ended meanwhile", |world| world.answer(order) == Some(Ok(())));
    assert_eq!(network.world.effects(order), 1);
    assert!(sequence(&network) > before, "the numbers of reports go on");
    assert!(!network.world.was_noted("two has lost the agent"));
    is_whole(&mut network);
}

#[test]
fn a_host_that_lost_its_power_comes_back_and_its_old_connection_disturbs_nobody() {
    let mut network = Network::settled(5);
    *network.world.job_takes.lock().unwrap() = Duration::from_secs(5);
    let order = network.world.order("one", Order::Job);
    network.run_for(Duration::from_secs(2));
    // The controllers do not learn of the agent's end; they consider their connections open.
    for name in CONTROLLERS {
        network.sim.partition(name, "agent");
    }
    network.sim.crash("agent");
    network.run_for(Duration::from_secs(1));
    for name in CONTROLLERS {
        network.sim.repair(name, "agent");
    }
    network.sim.bounce("agent");
    network.until(BACKOFF, "the job that was cut off is done", |world| world.answer(order) == Some(Ok(())));
    network.run_for(KEEPALIVE);
    assert_eq!(network.world.effects(order), 1);
    for name in CONTROLLERS {
        assert!(!network.world.was_noted(&format!("{name} has lost the agent")), "{name}");
    }
    assert_eq!(network.world.ask::<String>("select boot_id from agent"), "boot 2");
    is_whole(&mut network);
}

#[test]
fn a_controller_that_vanishes_before_its_first_call_is_dialled_again() {
    let mut network = Network::settled(6);
    network.sim.crash("agent");
    network.until(KEEPALIVE, "the end is known", |world| !world.hears("one"));
    let reached = network.world.history().len();
    network.sim.bounce("agent");
    let dialled = |world: &World| world.history()[reached..].iter().any(|note| note.ends_with("reaches one:8778"));
    network.until(BACKOFF, "the agent has connected", dialled);
    network.sim.partition("one", "agent");
    network.run_for(Duration::from_secs(1));
    assert!(!network.world.hears("one"), "no call was heard");
    network.sim.repair("one", "agent");
    network.until(KEEPALIVE + BACKOFF, "the agent is back", |world| world.hears("one"));
}

#[test]
fn a_loss_is_written_when_the_store_is_back() {
    let mut network = Network::settled(7);
    *network.world.store_fails.lock().unwrap() = Some(Moment::Statement);
    network.sim.crash("agent");
    network.until(KEEPALIVE, "the end is known", |world| !world.hears("one"));
    network.run_for(Duration::from_secs(30));
    assert!(network.world.is_written("one"));
    *network.world.store_fails.lock().unwrap() = None;
    network.until(Duration::from_secs(2), "it is written", nobody_is_written);
}

#[test]
fn a_link_of_which_nobody_knows_whether_it_was_written_is_written_as_lost() {
    let mut network = Network::settled(9);
    network.sim.crash("agent");
    network.until(KEEPALIVE, "the loss is written", nobody_is_written);
    *network.world.store_fails.lock().unwrap() = Some(Moment::Committed);
    network.sim.bounce("agent");
    network.run_for(BACKOFF);
    assert!(!network.world.hears("one"));
    network.sim.crash("agent");
    network.run_for(KEEPALIVE);
    *network.world.store_fails.lock().unwrap() = None;
    network.until(Duration::from_secs(2), "it is written", nobody_is_written);
}

fn nobody_is_written(world: &World) -> bool {
    CONTROLLERS.iter().all(|name| !world.is_written(name))
}

#[test]
fn a_job_of_an_operation_that_is_over_ends_when_the_next_one_comes() {
    let mut network = Network::settled(8);
    *network.world.job_takes.lock().unwrap() = Duration::from_secs(300);
    let given_up = network.world.order("one", Order::Job);
    network.run_for(Duration::from_secs(5));
    *network.world.job_takes.lock().unwrap() = Duration::from_secs(1);
    let next = network.world.order("two", Order::Job);
    network.until(Duration::from_secs(5), "the next one is done", |world| world.answer(next) == Some(Ok(())));
    let told = network.world.answer(given_up).unwrap().unwrap_err();
    assert!(told.starts_with("cancelled before "), "{told}");
    assert_eq!(network.world.effects(given_up), 0);
}
