//! Polls a condition, with a deadline.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Repeats a query until `done` holds. The error contains what was waited for and the last value. The deadline is for a
/// machine with a processor for each task that can run; it is longer on one that has more to do.
pub async fn poll<T: Debug, F: AsyncFnMut() -> Result<T>>(
    what: &str,
    deadline: Duration,
    mut ask: F,
    done: impl Fn(&T) -> bool,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        let seen = ask().await;
        match seen {
            Ok(value) if done(&value) => return Ok(value),
            last if begun.elapsed() >= deadline.mul_f64(slowness()) => {
                bail!("waited {deadline:?} for {what}; saw last: {last:?}")
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Tasks that could run in the last minute for each processor, at least 1.
fn slowness() -> f64 {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let tasks: f64 = load.split(' ').next().and_then(|tasks| tasks.parse().ok()).unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (tasks / processors as f64).clamp(1.0, 6.0)
}
