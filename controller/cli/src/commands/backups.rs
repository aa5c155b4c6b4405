//! Backups of instances.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::{Session, WaitOptions, instances};
use crate::error::Result;
use crate::output::Column;

/// What can be done with backups.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Take a backup of an instance, which runs on meanwhile.
    Create(Order),
    /// List backups, the last changed first.
    List {
        /// Those of one instance, by name or id.
        #[arg(long)]
        instance: Option<String>,
        /// Those of one datastore, by name or id.
        #[arg(long)]
        datastore: Option<String>,
        /// Those of all projects; for administrators.
        #[arg(long)]
        all_projects: bool,
    },
    /// Show a backup.
    Show {
        /// By name or id.
        backup: String,
    },
    /// Delete a backup with its data.
    Delete {
        /// By name or id.
        backup: String,
    },
}

/// A backup to be taken.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  trovectl backup create before-sale --instance shop --wait --timeout 3600\n  trovectl instance create \
        shop2 --backup before-sale --size 5 --wait"
)]
pub(crate) struct Order {
    /// The name; need not be unique.
    name: String,
    /// The instance, by name or id.
    #[arg(long)]
    instance: String,
    /// What it is for.
    #[arg(long)]
    description: Option<String>,
    #[command(flatten)]
    wait: WaitOptions,
}

const LIST: &[Column] = &[
    ("ID", "id"),
    ("NAME", "name"),
    ("INSTANCE", "instance_id"),
    ("STATUS", "status"),
    ("SIZE GB", "size"),
    ("DATASTORE", "datastore.type"),
    ("VERSION", "datastore.version"),
    ("UPDATED", "updated"),
];

const SHOW: &[Column] = &[
    ("ID", "id"),
    ("NAME", "name"),
    ("DESCRIPTION", "description"),
    ("INSTANCE", "instance_id"),
    ("STATUS", "status"),
    ("SIZE GB", "size"),
    ("DATASTORE", "datastore.type"),
    ("VERSION", "datastore.version"),
    ("LOCATION", "locationRef"),
    ("CREATED", "created"),
    ("UPDATED", "updated"),
];

/// Does it.
pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<()> {
    match verb {
        Verb::Create(order) => create(session, &order).await,
        Verb::List { instance, datastore, all_projects } => {
            let mut query = vec![format!("all_projects={all_projects}")];
            if let Some(instance) = instance {
                query.push(format!("instance_id={}", instances::id(session, &instance).await?));
            }
            if let Some(datastore) = datastore {
                query.push(format!("datastore={}", crate::api::segment(&datastore)));
            }
            let path = format!("/backups?{}", query.join("&"));
            let list = session.api.list("list the backups", &path, "backups").await?;
            session.output.list(&list, LIST)
        }
        Verb::Show { backup } => {
            let found = session.api.find_backup(&backup).await?;
            session.output.one(&found, SHOW)
        }
        Verb::Delete { backup } => {
            let found = session.api.find_backup(&backup).await?;
            let path = format!("/backups/{}", found["id"].as_str().unwrap_or_default());
            session.api.send(&format!("delete the backup {backup}"), Method::DELETE, &path, None).await?;
            session.output.remark(&format!("Accepted: to delete the backup {backup}."));
            Ok(())
        }
    }
}

async fn create(session: &mut Session, order: &Order) -> Result<()> {
    let instance = instances::id(session, &order.instance).await?;
    let what = format!("take the backup {} of {}", order.name, order.instance);
    let body = json!({"backup": {"name": order.name, "instance": instance, "description": order.description}});
    let answer = session.api.send(&what, Method::POST, "/backups", Some(&body)).await?;
    session.settle(&order.wait, &instance, answer.operation.as_deref(), &what).await?;
    let id = answer.body["backup"]["id"].as_str().unwrap_or_default();
    let found = session.api.find_backup(id).await?;
    session.output.one(&found, SHOW)
}
