//! The time of the store: the database's clock, carried on by this process's boot clock between two readings. So the
//! clock of a controller's machine may be wrong, or jump, and nothing that is stored or compared changes with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use nix::time::{ClockId, clock_gettime};

/// Cheap to clone; the clones share their readings.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// What the database's clock showed when the machine started, microseconds since 1970.
    base: Arc<AtomicI64>,
    /// In the simulator, where time passes as the runtime says.
    #[cfg(test)]
    simulated: Option<tokio::time::Instant>,
}

/// Microseconds since the machine started, with the time that it slept; nobody sets this clock.
fn elapsed() -> i64 {
    // The call cannot fail on Linux: the clock has been there since 2.6.39.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| time.tv_sec() * 1_000_000 + time.tv_nsec() / 1000)
}

impl Clock {
    /// One that shows `now`, microseconds since 1970.
    pub(super) fn new(now: i64) -> Self {
        Self {
            base: Arc::new(AtomicI64::new(now - elapsed())),
            #[cfg(test)]
            simulated: None,
        }
    }

    /// One that starts at `now` and goes on with the runtime's clock.
    #[cfg(test)]
    pub(super) fn simulated(now: i64) -> Self {
        Self { base: Arc::new(AtomicI64::new(now)), simulated: Some(tokio::time::Instant::now()) }
    }

    /// The database's clock has just shown `now`.
    pub(super) fn set(&self, now: i64) {
        self.base.store(now - elapsed(), Ordering::Relaxed);
    }

    /// Microseconds since 1970.
    pub(super) fn now(&self) -> i64 {
        #[cfg(test)]
        if let Some(start) = self.simulated {
            let passed = i64::try_from(start.elapsed().as_micros()).unwrap_or(i64::MAX);
            return self.base.load(Ordering::Relaxed) + passed;
        }
        self.base.load(Ordering::Relaxed) + elapsed()
    }
}
