//! Durations of the runner.

use std::time::Duration;

/// Durations of the runner; tests have shorter ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// How long a claim lasts.
    pub(crate) lease: Duration,
    /// When it is renewed.
    pub(crate) renew: Duration,
    /// First delay before a step is tried again; it doubles.
    pub(crate) first_delay: Duration,
    /// Greatest such delay. A step without deadline that has come to it lets go of the operation for a while.
    pub(crate) greatest_delay: Duration,
    /// For how long.
    pub(crate) parked: Duration,
    /// An undo that does not succeed for so long is stuck.
    pub(crate) undo_deadline: Duration,
    /// The least time for a step that goes on after a restart, so that an unknown outcome is asked at least once.
    pub(crate) grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            renew: Duration::from_secs(10),
            first_delay: Duration::from_millis(200),
            greatest_delay: Duration::from_secs(10),
            parked: Duration::from_secs(30),
            undo_deadline: Duration::from_secs(60),
            grace: Duration::from_secs(30),
        }
    }
}
