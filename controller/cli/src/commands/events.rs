//! What changes in the project, as it happens.

use clap::Args;
use futures::StreamExt;
use serde_json::Value;

use super::Session;
use crate::error::{Failure, Result};
use crate::output::{Format, cell, print};

/// Which changes.
#[derive(Args)]
#[command(after_help = "Examples:\n  trovectl events\n  trovectl events -o json | jq .event")]
pub(crate) struct Arguments {
    /// Those of all projects; for administrators.
    #[arg(long)]
    all_projects: bool,
}

/// Prints until the service ends the stream: a line an event, beginning with what there is.
pub(crate) async fn run(session: &mut Session, arguments: &Arguments) -> Result<()> {
    let path = if arguments.all_projects { "/mgmt/events" } else { "/events" };
    let answer = session.api.open_stream("follow the events", path).await?;
    let mut bytes = answer.bytes_stream();
    let (mut text, mut name) = (Vec::new(), String::new());
    while let Some(part) = bytes.next().await {
        let part =
            part.map_err(|error| Failure::failed(format!("The stream broke: {}.", crate::error::plain(&error))))?;
        text.extend_from_slice(&part);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if let Some(event) = line.strip_prefix("event: ") {
                event.clone_into(&mut name);
            } else if let Some(data) = line.strip_prefix("data: ") {
                let data: Value = serde_json::from_str(data).unwrap_or_default();
                show(session.output.format, &name, data)?;
            }
        }
    }
    Ok(())
}

fn show(format: Format, name: &str, data: Value) -> Result<()> {
    if format != Format::Table {
        return print(&format!("{}\n", serde_json::json!({"event": name, "data": data})));
    }
    let line = match name {
        "instance" => {
            let instance = &data["instance"];
            let (status, service) = (cell(&instance["status"]), cell(&instance["operating_status"]));
            let fault = instance["fault"]["message"].as_str().map(|fault| format!("  {fault}")).unwrap_or_default();
            format!("{}  {}  {status} {service}{fault}", cell(&instance["id"]), cell(&instance["name"]))
        }
        "operation" => {
            let operation = &data["operation"];
            let step = operation["error"].as_str().or(operation["step"].as_str()).unwrap_or_default();
            format!(
                "{}  {} {}  {step}",
                cell(&data["instance_id"]),
                cell(&operation["kind"]),
                cell(&operation["status"])
            )
        }
        "deleted" => format!("{}  deleted", cell(&data["instance_id"])),
        _ => cell(&data["reason"]),
    };
    print(&format!("{}\n", line.trim_end()))
}
