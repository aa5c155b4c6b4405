//! Waiting for an operation to end, by holding a request open until something changes.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::Api;
use crate::error::{Failure, Result};
use crate::output::Output;
use crate::progress::Progress;

/// How long one request is held, seconds.
const HELD: u64 = 30;

/// What an operation is one of, by its id.
#[derive(Clone, Copy)]
pub(crate) enum Of<'a> {
    Instance(&'a str),
    Backup(&'a str),
}

impl Of<'_> {
    fn path(self) -> String {
        match self {
            Self::Instance(id) => format!("/instances/{id}/operations"),
            Self::Backup(id) => format!("/backups/{id}/operations"),
        }
    }

    /// The command that shows how it goes.
    pub(crate) fn command(self) -> String {
        match self {
            Self::Instance(id) => format!("trovectl operations {id}"),
            Self::Backup(id) => format!("trovectl backup show {id}"),
        }
    }

    /// The same, as it goes.
    fn follow(self) -> String {
        match self {
            Self::Instance(_) => format!("{} --follow", self.command()),
            Self::Backup(_) => self.command(),
        }
    }
}

/// What is waited for.
pub(crate) struct Wait<'a> {
    pub(crate) of: Of<'a>,
    pub(crate) operation: &'a str,
    /// `create the instance x`.
    pub(crate) what: &'a str,
    /// At most this long.
    pub(crate) timeout: Duration,
}

/// Waits until the operation has ended, showing its steps.
///
/// # Errors
/// It failed: with its own reason; or the time is over, and it goes on.
pub(crate) async fn wait(api: &mut Api, output: Output, wait: &Wait<'_>) -> Result<()> {
    let end = Instant::now() + wait.timeout;
    let mut progress = Progress::new(&format!("Waiting to {}:", wait.what), output.quiet);
    let ended = follow(api, wait, end, &mut progress).await;
    progress.end();
    ended
}

async fn follow(api: &mut Api, wait: &Wait<'_>, end: Instant, progress: &mut Progress) -> Result<()> {
    let Wait { of, operation, what, timeout } = wait;
    let mut since = None;
    loop {
        let (list, version) = match operations(api, *of, since.as_deref(), end).await {
            Ok(answer) => answer,
            // The instance is gone, which is how a delete ends.
            Err(Failure::NotFound(_)) if what.starts_with("delete the instance") => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let found = list.iter().find(|found| found["id"] == *operation);
        if let Some(found) = found {
            progress.show(found);
            match found["status"].as_str().unwrap_or_default() {
                "done" => return Ok(()),
                "failed" | "cancelled" | "stuck" => {
                    let why = found["error"].as_str().unwrap_or("no reason was given");
                    let status = found["status"].as_str().unwrap_or_default();
                    return Err(Failure::failed(format!(
                        "Could not {what}: the operation is {status}: {why} `{}` shows more.",
                        of.command()
                    )));
                }
                _ => {}
            }
        }
        if Instant::now() >= end {
            return Err(Failure::Late(format!(
                "Not done within {} s: to {what} goes on. `{}` shows it.",
                timeout.as_secs(),
                of.follow()
            )));
        }
        if version.is_none() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        since = version;
    }
}

/// The operations of an instance or a backup, newest first, and the version of the answer. With `since` the answer is held until
/// there is another.
///
/// # Errors
/// The service's.
pub(crate) async fn operations(
    api: &mut Api,
    of: Of<'_>,
    since: Option<&str>,
    end: Instant,
) -> Result<(Vec<Value>, Option<String>)> {
    let mut path = of.path();
    if let Some(since) = since {
        let left = end.saturating_duration_since(Instant::now()).as_secs().clamp(1, HELD);
        path.push_str(&format!("?wait={left}&since={}", crate::api::segment(since)));
    }
    let mut body = api.get("look at the operations", &path).await?;
    let version = body["version"].as_str().map(str::to_owned);
    let list = match body["operations"].take() {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    Ok((list, version))
}
