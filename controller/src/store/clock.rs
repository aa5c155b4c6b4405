//! The store's clock: the database's time at the last reading, plus the time that has passed since by the boot clock of
//! this machine. So a wrong or jumping clock of a controller's machine has no effect on stored or compared times.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use nix::time::{ClockId, clock_gettime};

/// The store's clock. Clones share their readings.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// The database's time at the boot of this machine, microseconds since 1970.
    base: Arc<AtomicI64>,
    /// Set in the simulator, where time is that of the runtime.
    #[cfg(test)]
    simulated: Option<tokio::time::Instant>,
}

impl Clock {
    /// A clock that shows `now`, microseconds since 1970.
    pub(super) fn new(now: i64) -> Self {
        let clock = Self {
            base: Arc::default(),
            #[cfg(test)]
            simulated: None,
        };
        clock.set(now);
        clock
    }

    /// A clock that shows `now` and goes on with the runtime's time.
    #[cfg(test)]
    pub(crate) fn simulated(now: i64) -> Self {
        Self { base: Arc::new(AtomicI64::new(now)), simulated: Some(tokio::time::Instant::now()) }
    }

    /// Microseconds since boot, including suspension. Nobody can set this clock.
    fn elapsed(&self) -> i64 {
        #[cfg(test)]
        if let Some(start) = self.simulated {
            return i64::try_from(start.elapsed().as_micros()).unwrap_or(i64::MAX);
        }
        // Cannot fail: Linux has this clock since 2.6.39.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| time.tv_sec() * 1_000_000 + time.tv_nsec() / 1000)
    }

    /// Records a reading of the database's clock.
    pub(crate) fn set(&self, now: i64) {
        self.base.store(now - self.elapsed(), Ordering::Relaxed);
    }

    /// Microseconds since 1970.
    pub(crate) fn now(&self) -> i64 {
        self.base.load(Ordering::Relaxed) + self.elapsed()
    }
}
