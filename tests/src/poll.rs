//! Polls a condition, with a deadline.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Repeats a query until `done` holds. The error contains what was waited for and the last value.
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
