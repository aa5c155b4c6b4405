//! Accounts of an instance and what they may enter.

use clap::{Args, Subcommand};
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{Session, WaitOptions};
use crate::api::segment;
use crate::error::Result;
use crate::output::print;
use crate::secret::PasswordSource;

/// Which account.
#[derive(Args, Debug)]
pub(crate) struct Which {
    /// The instance, by name or id.
    instance: String,
    /// The account: a name, or name@host where accounts have hosts.
    user: String,
}

/// What can be done with accounts.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Create an account. Example: trovectl user create shop app --database app --generate-password --wait
    Create {
        #[command(flatten)]
        which: Which,
        /// A database that it may enter; may be given several times.
        #[arg(long = "database", value_name = "NAME")]
        databases: Vec<String>,
        /// The hosts that it may come from, where accounts have hosts.
        #[arg(long)]
        host: Option<String>,
        #[command(flatten)]
        password: PasswordSource,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// List accounts.
    List {
        /// The instance, by name or id.
        instance: String,
    },
    /// Show an account.
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Delete an account; what it owned stays with its databases.
    Delete {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Set another password of an account.
    SetPassword {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        password: PasswordSource,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Rename an account.
    Rename {
        #[command(flatten)]
        which: Which,
        /// The new name.
        name: String,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Grant an account access to databases.
    Grant {
        #[command(flatten)]
        which: Which,
        /// Their names.
        #[arg(required = true)]
        databases: Vec<String>,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Revoke an account's access to a database.
    Revoke {
        #[command(flatten)]
        which: Which,
        /// Its name.
        database: String,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// List the databases that an account may enter.
    Access {
        #[command(flatten)]
        which: Which,
    },
}

const COLUMNS: &[(&str, &str)] = &[("NAME", "name"), ("HOST", "host"), ("DATABASES", "databases")];

fn named(names: &[String]) -> Vec<Value> {
    names.iter().map(|name| json!({"name": name})).collect()
}

/// A write on one account, and the wait for it.
async fn write(
    session: &mut Session,
    which: &Which,
    wait: &WaitOptions,
    what: &str,
    request: (Method, &str, Option<Value>),
) -> Result<()> {
    let id = super::instances::id(session, &which.instance).await?;
    let (method, rest, body) = request;
    let path = format!("/instances/{id}/users/{}{rest}", segment(&which.user));
    let answer = session.api.send(what, method, &path, body.as_ref()).await?;
    session.settle(wait, &id, answer.operation.as_deref(), what).await
}

/// Does it.
pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<()> {
    match verb {
        Verb::List { instance } => {
            let id = super::instances::id(session, &instance).await?;
            let path = format!("/instances/{id}/users");
            let list = session.api.list(&format!("list the accounts of {instance}"), &path, "users").await?;
            session.output.list(&list, COLUMNS)
        }
        Verb::Show { which } => {
            let id = super::instances::id(session, &which.instance).await?;
            let path = format!("/instances/{id}/users/{}", segment(&which.user));
            let body = session.api.get(&format!("show the account {}", which.user), &path).await?;
            session.output.one(&body["user"], COLUMNS)
        }
        Verb::Access { which } => {
            let id = super::instances::id(session, &which.instance).await?;
            let path = format!("/instances/{id}/users/{}/databases", segment(&which.user));
            let what = format!("list what {} may enter", which.user);
            let list = session.api.list(&what, &path, "databases").await?;
            session.output.list(&list, &[("NAME", "name")])
        }
        Verb::Create { which, databases, host, password, wait } => {
            create(session, &which, &databases, host.as_deref(), &password, &wait).await
        }
        Verb::Delete { which, wait } => {
            let what = format!("delete the account {} of {}", which.user, which.instance);
            write(session, &which, &wait, &what, (Method::DELETE, "", None)).await
        }
        Verb::SetPassword { which, password, wait } => {
            let password = password.read(&which.user)?;
            let body = json!({"user": {"password": password.secret.expose_secret()}});
            let what = format!("change the password of {} of {}", which.user, which.instance);
            write(session, &which, &wait, &what, (Method::PUT, "", Some(body))).await?;
            show_once(&which.user, &password)
        }
        Verb::Rename { which, name, wait } => {
            let what = format!("rename the account {} of {} to {name}", which.user, which.instance);
            let body = json!({"user": {"name": name}});
            write(session, &which, &wait, &what, (Method::PUT, "", Some(body))).await
        }
        Verb::Grant { which, databases, wait } => {
            let what = format!("let {} into {}", which.user, databases.join(", "));
            let body = json!({"databases": named(&databases)});
            write(session, &which, &wait, &what, (Method::PUT, "/databases", Some(body))).await
        }
        Verb::Revoke { which, database, wait } => {
            let what = format!("shut {} out of {database}", which.user);
            let rest = format!("/databases/{}", segment(&database));
            write(session, &which, &wait, &what, (Method::DELETE, &rest, None)).await
        }
    }
}

fn show_once(user: &str, password: &crate::secret::Password) -> Result<()> {
    if !password.generated {
        return Ok(());
    }
    print(&format!("The password of {user}, shown this once: {}\n", password.secret.expose_secret()))
}

async fn create(
    session: &mut Session,
    which: &Which,
    databases: &[String],
    host: Option<&str>,
    password: &PasswordSource,
    wait: &WaitOptions,
) -> Result<()> {
    let id = super::instances::id(session, &which.instance).await?;
    let password = password.read(&which.user)?;
    let mut user = json!({
        "name": which.user, "password": password.secret.expose_secret(), "databases": named(databases)});
    if let Some(host) = host {
        user["host"] = json!(host);
    }
    let what = format!("create the account {} in {}", which.user, which.instance);
    let path = format!("/instances/{id}/users");
    let answer = session.api.send(&what, Method::POST, &path, Some(&json!({"users": [user]}))).await?;
    session.settle(wait, &id, answer.operation.as_deref(), &what).await?;
    show_once(&which.user, &password)
}
