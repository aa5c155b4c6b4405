//! What projects may have, and have.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::Session;
use crate::api::segment;
use crate::error::{Failure, Result};
use crate::output::Column;

/// What can be done with quotas.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Show what a project has and may have.
    Show {
        /// The project, by name or id; one's own when absent.
        project: Option<String>,
    },
    /// Set what a project may have, in place of the configured quota; for administrators.
    #[command(after_help = "Example: trovectl quota set 32a834861530507cadd7d97f4316b28b --instances 20 --ram -1")]
    Set(Limits),
}

/// The limits to set; -1 is unlimited.
#[derive(Args)]
#[group(id = "limits", multiple = true)]
pub(crate) struct Limits {
    /// The project, by name or id.
    project: String,
    /// Instances.
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    instances: Option<i64>,
    /// Memory of all instances, MiB.
    #[arg(long, allow_negative_numbers = true, value_name = "MIB")]
    ram: Option<i64>,
    /// Volumes of all instances, GiB.
    #[arg(long, allow_negative_numbers = true, value_name = "GIB")]
    volumes: Option<i64>,
    /// Backups.
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    backups: Option<i64>,
    /// Configuration groups.
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    configurations: Option<i64>,
}

const QUOTA: &[Column] = &[("RESOURCE", "resource"), ("IN USE", "in_use"), ("LIMIT", "limit")];

/// Does it.
pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<()> {
    match verb {
        Verb::Show { project } => {
            let project = match project {
                Some(project) => session.api.find_project(&project).await?,
                None => session.api.project().to_owned(),
            };
            show(session, project).await
        }
        Verb::Set(limits) => {
            let given = [
                ("instances", limits.instances),
                ("ram", limits.ram),
                ("volumes", limits.volumes),
                ("backups", limits.backups),
                ("configurations", limits.configurations),
            ];
            let given: serde_json::Map<String, Value> =
                given.into_iter().filter_map(|(name, limit)| Some((name.to_owned(), json!(limit?)))).collect();
            if given.is_empty() {
                return Err(Failure::Usage(
                    "Say what to set: --instances, --ram, --volumes, --backups or --configurations.".to_owned(),
                ));
            }
            let what = format!("set the quotas of the project {}", limits.project);
            let project = session.api.find_project(&limits.project).await?;
            let path = format!("/mgmt/quotas/{}", segment(&project));
            session.api.send(&what, Method::PUT, &path, Some(&json!({"quotas": given}))).await?;
            show(session, project).await
        }
    }
}

async fn show(session: &mut Session, project: String) -> Result<()> {
    let what = format!("show the quotas of the project {project}");
    let list = session.api.list(&what, &format!("/mgmt/quotas/{}", segment(&project)), "quotas").await?;
    session.output.list(&list, QUOTA)
}
