//! What happens to everybody: rng, whether things still go wrong, and what must never happen.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::rng::Rng;

/// One for all controllers and hosts.
pub(super) struct Crash {
    pub(super) rng: Rng,
    /// Whether things still go wrong.
    pub(super) faulty: AtomicBool,
    /// What must never happen, and did.
    pub(super) wrong: Mutex<Vec<String>>,
}

impl Crash {
    pub(super) fn new(rng: Rng) -> Self {
        Self { rng, faulty: AtomicBool::new(false), wrong: Mutex::default() }
    }

    /// Whether something goes wrong now, once in `n` times.
    pub(super) fn fails(&self, n: u64) -> bool {
        self.faulty.load(Ordering::SeqCst) && self.rng.one_in(n)
    }

    /// What must never happen has happened.
    pub(super) fn violated(&self, what: impl std::fmt::Display) {
        self.rng.note(format!("WRONG: {what}"));
        self.wrong.lock().unwrap().push(what.to_string());
    }
}
