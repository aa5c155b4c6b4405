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

impl Clock {
    /// One that shows `now`, microseconds since 1970.
    pub(super) fn new(now: i64) -> Self {
        let clock = Self {
            base: Arc::default(),
            #[cfg(test)]
            simulated: None,
        };
        clock.set(now);
        clock
    }

    /// One that shows `now` and goes on with the runtime's clock.
    #[cfg(test)]
    pub(crate) fn simulated(now: i64) -> Self {
        Self { base: Arc::new(AtomicI64::new(now)), simulated: Some(tokio::time::Instant::now()) }
    }

    /// Microseconds since the machine started, with the time that it slept; nobody sets this clock.
    fn elapsed(&self) -> i64 {
        #[cfg(test)]
        if let Some(start) = self.simulated {
            return i64::try_from(start.elapsed().as_micros()).unwrap_or(i64::MAX);
        }
        // The call cannot fail on Linux: the clock has been there since 2.6.39.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| time.tv_sec() * 1_000_000 + time.tv_nsec() / 1000)
    }

    /// The database's clock has just shown `now`.
    pub(crate) fn set(&self, now: i64) {
        self.base.store(now - self.elapsed(), Ordering::Relaxed);
    }

    /// Microseconds since 1970.
    pub(crate) fn now(&self) -> i64 {
        self.base.load(Ordering::Relaxed) + self.elapsed()
    }
}
