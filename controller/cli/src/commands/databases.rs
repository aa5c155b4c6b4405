//! Databases of an instance.

use clap::Subcommand;
use reqwest::Method;
use serde_json::json;

use super::{Session, WaitOptions};
use crate::api::segment;
use crate::error::Result;

/// What can be done with databases.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Create databases. Example: trovectl db create shop orders stock --wait
    Create {
        /// The instance, by name or id.
        instance: String,
        /// Their names.
        #[arg(required = true)]
        names: Vec<String>,
        /// The engine's name of a character set.
        #[arg(long)]
        character_set: Option<String>,
        /// The engine's name of a collation.
        #[arg(long)]
        collate: Option<String>,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// List databases.
    List {
        /// The instance, by name or id.
        instance: String,
    },
    /// Delete a database with all that is in it.
    Delete {
        /// The instance, by name or id.
        instance: String,
        /// Its name.
        name: String,
        #[command(flatten)]
        wait: WaitOptions,
    },
}

/// Does it.
pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<()> {
    match verb {
        Verb::Create { instance, names, character_set, collate, wait } => {
            let id = super::instances::id(session, &instance).await?;
            let database = |name: &String| {
                let mut database = json!({"name": name});
                for (field, value) in [("character_set", &character_set), ("collate", &collate)] {
                    if let Some(value) = value {
                        database[field] = json!(value);
                    }
                }
                database
            };
            let body = json!({"databases": names.iter().map(database).collect::<Vec<_>>()});
            let what = format!("create {} in {instance}", names.join(", "));
            let path = format!("/instances/{id}/databases");
            let answer = session.api.send(&what, Method::POST, &path, Some(&body)).await?;
            session.settle(&wait, &id, answer.operation.as_deref(), &what).await
        }
        Verb::List { instance } => {
            let id = super::instances::id(session, &instance).await?;
            let path = format!("/instances/{id}/databases");
            let list = session.api.list(&format!("list the databases of {instance}"), &path, "databases").await?;
            session.output.list(&list, &[("NAME", "name")])
        }
        Verb::Delete { instance, name, wait } => {
            let id = super::instances::id(session, &instance).await?;
            let what = format!("delete the database {name} of {instance}");
            let path = format!("/instances/{id}/databases/{}", segment(&name));
            let answer = session.api.send(&what, Method::DELETE, &path, None).await?;
            session.settle(&wait, &id, answer.operation.as_deref(), &what).await
        }
    }
}
