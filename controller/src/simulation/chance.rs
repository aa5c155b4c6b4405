//! What a history draws, and what it tells.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

/// The dice of one history, and its record. Cheap to clone.
#[derive(Clone)]
pub(super) struct Chance {
    dice: Arc<Mutex<StdRng>>,
    lines: Arc<Mutex<Vec<String>>>,
    start: Instant,
}

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        let dice = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
        Self { dice, lines: Arc::default(), start: Instant::now() }
    }

    /// From `from` up to, not including, `to`.
    pub(super) fn between(&self, from: u64, to: u64) -> u64 {
        self.dice.lock().unwrap().random_range(from..to)
    }

    pub(super) fn one_in(&self, n: u64) -> bool {
        self.between(0, n) == 0
    }

    /// Waits for some milliseconds.
    pub(super) async fn delay(&self, from: u64, to: u64) {
        tokio::time::sleep(Duration::from_millis(self.between(from, to))).await;
    }

    /// Writes down what happens.
    pub(super) fn note(&self, line: impl std::fmt::Display) {
        let line = format!("{:>9.3} {line}", self.start.elapsed().as_secs_f64());
        self.lines.lock().unwrap().push(line);
    }

    /// What happened.
    pub(super) fn history(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}
