//! Thousands of histories of two controllers, their agents and everything that goes wrong between them, in one process:
//! the real runner, reconcilers, use cases, SQL and agents' journal; simulated are time, wires, hosts and engines.
//! The same seed is the same history. `make sim` runs them; see docs/simulation.md.

mod chance;
mod controller;
mod guest;
mod history;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

/// A history that did not end well: its seed, what happened, and what was wrong at its end.
type Failed = (u64, Vec<String>, String);

/// Runs the histories of these seeds on every core; those that failed.
fn run(seeds: std::ops::Range<u64>) -> Vec<Failed> {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= seeds.end {
                return failed;
            }
            if let (lines, Err(wrong)) = history::run(seed) {
                failed.push((seed, lines, wrong));
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn histories_end_well() {
    let first = number("TROVE_SIM_SEED", 0);
    let count = number("TROVE_SIM_HISTORIES", 50);
    let begun = std::time::Instant::now();
    let failed = run(first..first + count);
    let text = format!(
        "{count} histories from seed {first} in {:.1} s: {} failed",
        begun.elapsed().as_secs_f64(),
        failed.len()
    );
    eprintln!("{text}");
    if let Some((seed, lines, wrong)) = failed.first() {
        let seeds: Vec<u64> = failed.iter().map(|(seed, ..)| *seed).collect();
        panic!("{text}: {seeds:?}\nseed {seed}:\n{}\n{wrong}", lines.join("\n"));
    }
}

// Which of several waiters wakes first is drawn by the runtime, and its dice can be set only in this mode of it.
#[cfg(tokio_unstable)]
#[test]
fn the_same_seed_is_the_same_history() {
    for seed in [1, 7, 42] {
        let (one, two) = (history::run(seed).0, history::run(seed).0);
        assert!(one.len() > 10, "{one:?}");
        assert_eq!(one, two, "seed {seed}");
    }
    assert_ne!(history::run(1).0, history::run(2).0);
}
