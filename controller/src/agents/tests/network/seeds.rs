//! Random histories: a few minutes in which network, hosts and database fail, followed by checks once nothing fails any
//! more.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::parts::{CONTROLLERS, Order};
use super::{KEEPALIVE, LATENCY, Network, SETTLED, is_whole};
use crate::store::sql::simulated::Moment;

/// Number of faults in a history.
const FAULTS: u32 = 6;

/// Runs the history of a seed, and returns it.
fn live(seed: u64) -> Vec<String> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut network = Network::settled(seed);
    let mut orders = Vec::new();
    for _ in 0..FAULTS {
        ask(&mut network, &mut dice, &mut orders);
        let wait = dice.random_range(0..8000);
        network.run_for(Duration::from_millis(wait));
        harm(&mut network, &mut dice);
        let lasts = dice.random_range(0..25_000);
        network.run_for(Duration::from_millis(lasts));
        if dice.random_bool(0.7) {
            heal(&mut network);
        }
    }
    heal(&mut network);
    network.until(SETTLED, "both hear the agent", |world| CONTROLLERS.iter().all(|name| world.hears(name)));
    network.until(SETTLED, "every order is answered", |world| orders.iter().all(|(n, _)| world.answer(*n).is_some()));
    network.run_for(KEEPALIVE);
    is_whole(&mut network);
    let world = &network.world;
    let mut assigned = 0;
    for (number, order) in orders {
        assert_eq!(world.answer(number), Some(Ok(())), "seed {seed}: {number}");
        match order {
            Order::Job => assert_eq!(world.effects(number), 1, "seed {seed}: job {number}"),
            Order::Assign => assigned = u64::try_from(number).unwrap(),
        }
    }
    assert_eq!(world.kept_generation(), assigned, "seed {seed}");
    for name in CONTROLLERS {
        assert_eq!(world.heard_generation(name), assigned, "seed {seed}: {name}");
    }
    world.history()
}

/// Gives the next order once the last one is answered, since only one operation at a time works on an instance.
fn ask(network: &mut Network, dice: &mut StdRng, orders: &mut Vec<(usize, Order)>) {
    let (controller, is_job, takes) =
        (CONTROLLERS[dice.random_range(0..2)], dice.random_bool(0.7), dice.random_range(1..30));
    if orders.last().is_some_and(|(last, _)| network.world.answer(*last).is_none()) {
        return;
    }
    *network.world.job_takes.lock().unwrap() = Duration::from_secs(takes);
    let order = if is_job { Order::Job } else { Order::Assign };
    orders.push((network.world.order(controller, order.clone()), order));
}

fn harm(network: &mut Network, dice: &mut StdRng) {
    let (controller, kind) = (CONTROLLERS[dice.random_range(0..2)], dice.random_range(0..11));
    let latency = Duration::from_millis(dice.random_range(1..3000));
    let sim = &mut network.sim;
    let what = match kind {
        0 => {
            sim.partition(controller, "agent");
            "is cut off"
        }
        1 => {
            sim.partition_oneway(controller, "agent");
            "is not heard"
        }
        2 => {
            sim.partition_oneway("agent", controller);
            "does not hear"
        }
        3 => {
            sim.hold(controller, "agent");
            "has a wire that holds everything back"
        }
        4 => {
            sim.set_link_fail_rate(controller, "agent", 0.02);
            "loses messages"
        }
        5 => {
            sim.crash(controller);
            "crashes"
        }
        6 => {
            sim.crash("agent");
            "sees the agent crash"
        }
        7 => {
            sim.partition(controller, "agent");
            sim.crash("agent");
            sim.bounce("agent");
            "is not told that the agent was started anew"
        }
        8 => {
            sim.set_link_latency(controller, "agent", latency);
            "is far away"
        }
        _ => {
            let moment = if kind == 9 { Moment::Statement } else { Moment::Committed };
            *network.world.store_fails.lock().unwrap() = Some(moment);
            "sees the database fail"
        }
    };
    network.world.note(format!("{controller} {what}"));
}

fn heal(network: &mut Network) {
    *network.world.store_fails.lock().unwrap() = None;
    let sim = &mut network.sim;
    for name in CONTROLLERS {
        sim.set_link_fail_rate(name, "agent", 0.0);
        sim.set_link_latency(name, "agent", LATENCY);
        sim.release(name, "agent");
    }
    for host in [CONTROLLERS[0], CONTROLLERS[1], "agent"] {
        if !sim.is_host_running(host) {
            sim.bounce(host);
        }
    }
    network.world.note("all is mended");
}

#[test]
fn after_whatever_went_wrong_everything_is_as_it_was_asked_for() {
    let more = std::env::var("TROVE_CHANNEL_HISTORIES").ok();
    for seed in 0..more.map_or(8, |count| count.parse().unwrap()) {
        let history = live(seed);
        if seed % 8 == 3 {
            assert_eq!(history, live(seed), "the same seed is the same history");
        }
    }
}
