//! The all-powerful account of an instance.

use clap::Subcommand;
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::json;

use super::{Session, WaitOptions};
use crate::error::Result;
use crate::secret::PasswordSource;

/// What can be done with root.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Enable root, or give it another password, and print it once. The service makes one unless a file or standard
    /// input gives it.
    Enable {
        /// The instance, by name or id.
        instance: String,
        #[command(flatten)]
        password: PasswordSource,
    },
    /// Disable root.
    Disable {
        /// The instance, by name or id.
        instance: String,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// When root was last enabled and by whom, also if it was disabled since; for administrators.
    History {
        /// The instance, by name or id.
        instance: String,
    },
    /// Whether root is enabled.
    Show {
        /// The instance, by name or id.
        instance: String,
    },
}

/// Does it.
pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<()> {
    match verb {
        Verb::Enable { instance, password } => {
            let id = super::instances::id(session, &instance).await?;
            let given = password.password_file.is_some() || password.password_stdin;
            let body =
                if given { json!({"password": password.read("root")?.secret.expose_secret()}) } else { json!({}) };
            let path = format!("/instances/{id}/root");
            let answer =
                session.api.send(&format!("enable root on {instance}"), Method::POST, &path, Some(&body)).await?;
            session.output.one(&answer.body["user"], &[("PASSWORD", "password"), ("NAME", "name")])
        }
        Verb::Disable { instance, wait } => {
            let id = super::instances::id(session, &instance).await?;
            let what = format!("disable root on {instance}");
            let answer = session.api.send(&what, Method::DELETE, &format!("/instances/{id}/root"), None).await?;
            session.settle(&wait, &id, answer.operation.as_deref(), &what).await
        }
        Verb::History { instance } => {
            let id = super::instances::any_id(session, &instance).await?;
            let path = format!("/mgmt/instances/{id}/root");
            let body = session.api.get(&format!("ask for the history of root on {instance}"), &path).await?;
            session.output.one(&body["root_history"], &[("ENABLED", "enabled"), ("BY", "user")])
        }
        Verb::Show { instance } => {
            let id = super::instances::id(session, &instance).await?;
            let path = format!("/instances/{id}/root");
            let body = session.api.get(&format!("ask for root on {instance}"), &path).await?;
            session.output.one(&body, &[("ENABLED", "rootEnabled")])
        }
    }
}
