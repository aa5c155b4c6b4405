//! What the service does and did with an instance.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::Session;
use crate::error::{Failure, Result};
use crate::output::{Format, cell, print};
use crate::progress::Progress;
use crate::wait::{Of, operations};

/// Which instance, and how.
#[derive(Args)]
#[command(after_help = "Example: trovectl operations shop --follow")]
pub(crate) struct Arguments {
    /// The instance, by name or id.
    instance: String,
    /// Show the steps of what is under way as they happen, until nothing is.
    #[arg(long)]
    follow: bool,
}

/// Does it.
pub(crate) async fn run(session: &mut Session, arguments: &Arguments) -> Result<()> {
    let id = super::instances::id(session, &arguments.instance).await?;
    if arguments.follow {
        return follow(session, &id).await;
    }
    let (list, _) = operations(&mut session.api, Of::Instance(&id), None, Instant::now()).await?;
    if session.output.format != Format::Table || session.output.quiet {
        return session.output.list(&list, &[("ID", "id")]);
    }
    let mut rows = Vec::new();
    for operation in &list {
        let empty = Vec::new();
        let steps = operation["steps"].as_array().unwrap_or(&empty);
        let done = steps.iter().filter(|step| step["status"] == "done").count();
        let mut row = operation.clone();
        row["progress"] = format!("{done}/{}", steps.len()).into();
        row["now"] = operation["error"].as_str().or(operation["step"].as_str()).unwrap_or("-").into();
        rows.push(row);
    }
    session.output.list(
        &rows,
        &[
            ("KIND", "kind"),
            ("STATUS", "status"),
            ("STEPS", "progress"),
            ("STEP OR ERROR", "now"),
            ("ASKED FOR", "created"),
            ("ENDED", "finished"),
        ],
    )?;
    match list.first() {
        Some(newest) => print(&steps_text(newest)),
        None => Ok(()),
    }
}

/// The steps of the newest operation.
fn steps_text(operation: &Value) -> String {
    let mut text = format!("\nSteps of the newest, {}:\n", cell(&operation["kind"]));
    for step in operation["steps"].as_array().into_iter().flatten() {
        let error = step["error"].as_str().map(|error| format!("  {error}")).unwrap_or_default();
        text.push_str(&format!("  {:<8} {}{error}\n", cell(&step["status"]), cell(&step["name"])));
    }
    text
}

async fn follow(session: &mut Session, id: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(24 * 3600);
    let mut since = None;
    let mut progress: Option<(String, Progress)> = None;
    loop {
        let (list, version) = match operations(&mut session.api, Of::Instance(id), since.as_deref(), end).await {
            Ok(answer) => answer,
            Err(Failure::NotFound(_)) if progress.is_some() => break,
            Err(failure) => return Err(failure),
        };
        let active = |operation: &&Value| {
            matches!(operation["status"].as_str(), Some("queued" | "running" | "undoing" | "stuck"))
        };
        // The oldest that is active is the one that runs.
        let shown = list.iter().rev().find(active).or_else(|| {
            let (id, _) = progress.as_ref()?;
            list.iter().find(|operation| operation["id"] == id.as_str())
        });
        let Some(shown) = shown else { break };
        let id_shown = cell(&shown["id"]);
        if progress.as_ref().is_none_or(|(id, _)| *id != id_shown) {
            if let Some((_, ended)) = progress.take() {
                ended.end();
            }
            progress = Some((id_shown, Progress::new(&format!("{}:", cell(&shown["kind"])), session.output.quiet)));
        }
        if let Some((_, progress)) = &mut progress {
            progress.show(shown);
        }
        if !list.iter().any(|operation| active(&operation)) {
            break;
        }
        if version.is_none() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        since = version;
    }
    match progress {
        Some((_, progress)) => progress.end(),
        None => session.output.remark("Nothing is under way."),
    }
    Ok(())
}
