//! Backups of instances.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Session, WaitOptions, instances, schedules};
use crate::error::{Failure, Result};
use crate::output::Column;
use crate::wait::Of;

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
    /// Restore a backup to a scratch instance and have the engine check it there. The scratch instance is deleted afterwards.
    #[command(after_help = "Example: trovectl backup verify before-sale --wait --timeout 3600")]
    Verify {
        /// By name or id.
        backup: String,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Delete a backup with its data, and all that build on it.
    Delete {
        /// By name or id.
        backup: String,
    },
    /// When backups are taken by themselves, and how long those are kept.
    #[command(subcommand)]
    Schedule(schedules::Verb),
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
    /// Only what has changed since this backup of the instance, by name or id.
    #[arg(long, value_name = "BACKUP")]
    parent: Option<String>,
    /// Only what has changed since the last backup of the instance, where there is one.
    #[arg(long)]
    incremental: bool,
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
    ("PARENT", "parent_id"),
    ("LOCATION", "locationRef"),
    ("VERIFICATION", "verification.state"),
    ("VERIFIED", "verification.at"),
    ("FAULT", "verification.fault"),
    ("SCHEDULE", "schedule_id"),
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
        Verb::Verify { backup, wait } => verify(session, &backup, &wait).await,
        Verb::Delete { backup } => {
            let found = session.api.find_backup(&backup).await?;
            let path = format!("/backups/{}", found["id"].as_str().unwrap_or_default());
            let answer = session.api.send(&format!("delete the backup {backup}"), Method::DELETE, &path, None).await?;
            session.output.remark(&format!("Accepted: to delete the backup {backup}."));
            if let Some(increments) = answer.increments {
                session.output.remark(&format!("What builds on it is deleted, too: {increments}."));
            }
            Ok(())
        }
        Verb::Schedule(verb) => schedules::run(session, verb).await,
    }
}

async fn create(session: &mut Session, order: &Order) -> Result<()> {
    let instance = instances::id(session, &order.instance).await?;
    let what = format!("take the backup {} of {}", order.name, order.instance);
    let mut body = json!({"backup": {"name": order.name, "instance": instance, "description": order.description}});
    if let Some(parent) = &order.parent {
        body["backup"]["parent_id"] = session.api.find_backup(parent).await?["id"].take();
    }
    if order.incremental {
        body["backup"]["incremental"] = json!(1);
    }
    let found = take(session, &what, &instance, &body, &order.wait).await?;
    session.output.one(&found, SHOW)
}

/// Takes the last backup of an instance that is to be deleted, and waits for it.
///
/// # Errors
/// The instance is protected, or its backup is not complete: it must not be deleted.
pub(crate) async fn take_last(
    session: &mut Session,
    id: &str,
    instance: &str,
    name: &str,
    wait: &WaitOptions,
) -> Result<()> {
    let found = session.api.get(&format!("show the instance {instance}"), &format!("/instances/{id}")).await?;
    if found["instance"]["deletion_protection"] == true {
        return Err(Failure::failed(format!(
            "The instance {instance} is protected: no backup was taken. `trovectl instance protect {instance} --off` lets it \
             be deleted."
        )));
    }
    let what = format!("take the backup {name} of {instance}, after which it is deleted");
    let body = json!({"backup": {"name": name, "instance": id}});
    let taken = take(session, &what, id, &body, &wait.and_wait()).await?;
    match taken["status"].as_str() {
        Some("COMPLETED") => Ok(()),
        status => Err(Failure::failed(format!(
            "The backup {name} is {}: the instance {instance} was not deleted.",
            status.unwrap_or("gone")
        ))),
    }
}

/// Orders a backup, waits for it where that was asked for, and shows what it is then.
async fn take(session: &mut Session, what: &str, instance: &str, body: &Value, wait: &WaitOptions) -> Result<Value> {
    let answer = session.api.send(what, Method::POST, "/backups", Some(body)).await?;
    session.settle(wait, instance, answer.operation.as_deref(), what).await?;
    session.api.find_backup(answer.body["backup"]["id"].as_str().unwrap_or_default()).await
}

async fn verify(session: &mut Session, backup: &str, wait: &WaitOptions) -> Result<()> {
    let found = session.api.find_backup(backup).await?;
    let id = found["id"].as_str().unwrap_or_default();
    let what = format!("verify the backup {backup}");
    let body = json!({"verify": {}});
    let answer = session.api.send(&what, Method::POST, &format!("/backups/{id}/action"), Some(&body)).await?;
    session.settle_of(wait, Of::Backup(id), answer.operation.as_deref(), &what).await?;
    let found = session.api.find_backup(id).await?;
    if found["verification"]["state"] == "passed" {
        let at = found["verification"]["at"].as_str().unwrap_or_default();
        session.output.remark(&format!("The backup {backup} is verified at {at}."));
    }
    session.output.one(&found, SHOW)
}
