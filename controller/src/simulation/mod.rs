//! Thousands of histories of two controllers, their agents and everything that goes wrong between them, in one process:
//! the real runner, reconcilers, use cases, SQL, hub and agents; simulated are time, network, hosts and engines.
//! The same seed is the same history. `make sim` runs them; see docs/simulation.md.

mod agent;
mod controller;
mod crash;
mod engine;
mod expected;
mod faults;
mod guest;
mod history;
mod hosts;
mod invariants;
mod life;
mod network;
mod rng;
mod workload;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use history::Outcome;
use rng::Tally;

/// So often it is said how far it is.
const SAY_AT: u64 = 100;

/// What all histories came to.
#[derive(Default)]
struct Sum {
    histories: u64,
    operations: Tally,
    faults: Tally,
    /// Those that did not end well.
    failed: Vec<(u64, Outcome)>,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.histories += 1;
        let add = |all: &mut Tally, more: &Tally| {
            for (kind, count) in more {
                *all.entry(kind.clone()).or_default() += count;
            }
        };
        add(&mut self.operations, &outcome.operations);
        add(&mut self.faults, &outcome.faults);
        if outcome.ended.is_err() {
            self.failed.push((seed, outcome));
        }
        if self.histories.is_multiple_of(SAY_AT) {
            eprintln!("{} histories, {} failed", self.histories, self.failed.len());
        }
    }
}

/// Runs the histories of these seeds on every core.
fn run(seeds: std::ops::Range<u64>) -> Sum {
    let (next, sum) = (AtomicU64::new(seeds.start), Mutex::new(Sum::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= seeds.end {
                return;
            }
            let outcome = history::run(seed);
            sum.lock().unwrap().add(seed, outcome);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    let mut sum = sum.into_inner().unwrap();
    sum.failed.sort_by_key(|(seed, _)| *seed);
    sum
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A line each.
fn list(tally: &Tally) -> String {
    tally.iter().map(|(kind, count)| format!("\n  {count:>7} {kind}")).collect()
}

#[test]
fn histories_end_well() {
    let first = number("TROVE_SIM_SEED", 0);
    let count = number("TROVE_SIM_HISTORIES", 50);
    let begun = std::time::Instant::now();
    let sum = run(first..first + count);
    eprintln!("operations:{}\nwhat went wrong:{}", list(&sum.operations), list(&sum.faults));
    let (last, took, failed) = (first + count - 1, begun.elapsed().as_secs_f64(), sum.failed.len());
    let text = format!("{count} histories, of the seeds {first} to {last}, in {took:.1} s: {failed} failed");
    eprintln!("{text}");
    if let Some((seed, outcome)) = sum.failed.first() {
        eprintln!("seed {seed}, whose sum is {:016x}:\n{}", outcome.trace, outcome.lines.join("\n"));
        for (seed, outcome) in &sum.failed {
            eprintln!("seed {seed}: {}", outcome.ended.as_ref().unwrap_err());
        }
        panic!("{text}; the first alone: TROVE_SIM_SEED={seed} TROVE_SIM_HISTORIES=1 make sim");
    }
}

// Which of several waiters wakes first is drawn by the runtime, and its dice can be set only in this mode of it.
#[cfg(tokio_unstable)]
#[test]
fn the_same_seed_is_the_same_history() {
    for seed in [1, 7, 42] {
        let (one, two) = (history::run(seed), history::run(seed));
        assert!(one.lines.len() > 50, "{:?}", one.lines);
        assert_eq!(one.lines, two.lines, "seed {seed}");
        assert_eq!(one.trace, two.trace, "seed {seed}: what is too small for a line");
    }
    assert_ne!(history::run(1).trace, history::run(2).trace);
}
