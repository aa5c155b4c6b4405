//! Waiting with a deadline and the last thing seen.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks until `done` says so. A failure names what was waited for and what was seen last.
pub async fn poll<T: Debug, F: AsyncFnMut() -> Result<T>>(
    what: &str,
    deadline: Duration,
    mut ask: F,
    done: impl Fn(&T) -> bool,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        let seen = ask().await;
        match seen {
            Ok(value) if done(&value) => return Ok(value),
            last if Instant::now() >= end => bail!("waited {deadline:?} for {what}; saw last: {last:?}"),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
