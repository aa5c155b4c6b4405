//! What a history draws, and what it tells.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

/// How often each thing happened.
pub(super) type Tally = BTreeMap<String, u64>;

/// The dice of one history, and its record. Cheap to clone.
#[derive(Clone)]
pub(super) struct Rng {
    dice: Arc<Mutex<StdRng>>,
    record: Arc<Mutex<Record>>,
    start: Instant,
}

#[derive(Default)]
struct Record {
    lines: Vec<String>,
    faults: Tally,
    /// Sum over everything that happened, also over what is too small for a line.
    trace: DefaultHasher,
}

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        let dice = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
        Self { dice, record: Arc::default(), start: Instant::now() }
    }

    /// From `from` up to, not including, `to`.
    pub(super) fn between(&self, from: u64, to: u64) -> u64 {
        self.dice.lock().unwrap().random_range(from..to)
    }

    pub(super) fn one_in(&self, n: u64) -> bool {
        self.between(0, n) == 0
    }

    /// One of these.
    pub(super) fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[usize::try_from(self.between(0, from.len() as u64)).unwrap()]
    }

    /// Waits for some milliseconds.
    pub(super) async fn delay(&self, from: u64, to: u64) {
        tokio::time::sleep(Duration::from_millis(self.between(from, to))).await;
    }

    /// Writes down what happens.
    pub(super) fn note(&self, line: impl std::fmt::Display) {
        let line = format!("{:>9.3} {line}", self.start.elapsed().as_secs_f64());
        self.mark(&line);
        self.record.lock().unwrap().lines.push(line);
    }

    /// Writes down what goes wrong, and counts it as one of `kind`.
    pub(super) fn fault(&self, kind: &str, line: impl std::fmt::Display) {
        self.note(line);
        *self.record.lock().unwrap().faults.entry(kind.to_owned()).or_default() += 1;
    }

    /// Adds to the sum what is too small for a line.
    pub(super) fn mark(&self, what: impl std::hash::Hash) {
        let now = self.start.elapsed();
        (now, what).hash(&mut self.record.lock().unwrap().trace);
    }

    /// What happened.
    pub(super) fn history(&self) -> Vec<String> {
        self.record.lock().unwrap().lines.clone()
    }

    /// What went wrong, by kind.
    pub(super) fn faults(&self) -> Tally {
        self.record.lock().unwrap().faults.clone()
    }

    /// The sum over everything that happened.
    pub(super) fn trace(&self) -> u64 {
        self.record.lock().unwrap().trace.finish()
    }
}
