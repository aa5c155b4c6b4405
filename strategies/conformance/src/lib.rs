//! The suite that every datastore passes on its real engine.
//!
//! A strategy's test is a few lines: a [`Tenant`] that logs in as a tenant would, and [`run`]. What the datastore does not
//! announce is reported as skipped by name; everything else has to hold. A check that fails says which one it is and the
//! sentence that does not hold.

#![warn(missing_docs)]
#![allow(clippy::disallowed_methods, reason = "a scratch directory that is made for a test")]

mod access;
mod accounts;
mod backup;
mod bench;
mod life;
mod logs;
mod secrets;
mod tls;
mod values;

use std::path::PathBuf;

use anyhow::{Context, Result};
use async_trait::async_trait;
use secrecy::SecretString;
use trove_strategy::{Capability, Datastore, Described, EngineError, Manifest, Site};

pub use bench::{Bench, Running};
pub use values::{Tried, try_values};

/// Who logs in, where to, and how.
#[derive(Clone, Debug)]
pub struct Login {
    /// The account. Empty: no account and no password are given, in the way of the engine's own clients.
    pub user: String,
    /// Its password.
    pub password: SecretString,
    /// The database, for engines that have several.
    pub database: String,
    /// The connection is encrypted, and the server's certificate signed by the authority in this file (PEM).
    pub authority: Option<PathBuf>,
}

impl Login {
    /// In clear.
    pub fn new(user: &str, password: &str, database: &str) -> Self {
        let (user, password) = (user.to_owned(), SecretString::from(password));
        Self { user, password, database: database.to_owned(), authority: None }
    }
}

/// The engine as its tenants use it: over TCP, with a password.
#[async_trait]
pub trait Tenant: Send + Sync {
    /// Logs in, and gives an error where the engine does not let it in.
    async fn connect(&self, site: &Site, login: &Login) -> Result<Box<dyn Session>>;
    /// How what is written is found again. Every datastore has this that does not say that it is volatile.
    fn durability(&self) -> Option<&dyn Durability> {
        None
    }
    /// A parameter that can be changed while the engine runs, a value, and how the engine writes that. Every datastore has
    /// one that announces parameters of which not all need a restart.
    fn live_parameter(&self) -> Option<(&'static str, serde_json::Value, &'static str)> {
        None
    }
}

/// A connection that has logged in.
#[async_trait]
pub trait Session: Send {
    /// Asks the engine something that only who has logged in is answered.
    async fn ask(&mut self) -> Result<()>;
}

/// What is acknowledged stays.
#[async_trait]
pub trait Durability: Send + Sync {
    /// Stores a text so that it survives a crash once this returns.
    async fn write(&self, site: &Site, login: &Login, text: &str) -> Result<()>;
    /// Every text that was stored in that database, in any order.
    async fn read(&self, site: &Site, login: &Login) -> Result<Vec<String>>;
}

/// What the suite did.
#[derive(Debug, Default)]
pub struct Report {
    /// What held.
    pub passed: Vec<&'static str>,
    /// What the datastore does not announce.
    pub skipped: Vec<&'static str>,
}

impl Report {
    fn held<T>(&mut self, name: &'static str, result: Result<T>) -> Result<T> {
        let value = result.with_context(|| format!("the check {name} does not hold"))?;
        self.passed.push(name);
        Ok(value)
    }
}

fn plain(error: EngineError) -> anyhow::Error {
    anyhow::anyhow!(error.chain())
}

/// Runs the whole suite in a scratch directory of its own.
///
/// # Errors
/// The first thing that does not hold, by name.
pub async fn run(datastore: &dyn Datastore, tenant: &dyn Tenant) -> Result<Report> {
    let mut bench = Bench::new(datastore).await?;
    let manifest = Manifest::derive(datastore, bench.site.installation.clone(), Described::default());
    let identity = &manifest.identity;
    let mut report = Report::default();

    report.held("initialises_after_a_kill_midway", life::initialises_after_a_kill_midway(&bench).await)?;
    report.held("listens_nowhere_when_private", life::listens_nowhere_when_private(&bench).await)?;
    let running = report.held("starts_and_answers", bench.start().await)?;
    report.held("runs_what_start_spec_says", life::runs_what_start_spec_says(&bench, &running))?;
    report.held("knows_itself", life::knows_itself(&bench).await)?;
    if manifest.is_open() {
        report.skipped.push("refuses_strangers");
        report.held("lets_everybody_in", access::lets_everybody_in(&bench, tenant).await)?;
    } else {
        report.held("refuses_strangers", access::refuses_strangers(&bench, tenant).await)?;
    }
    for (name, capability) in [
        ("databases", Capability::Databases),
        ("users", Capability::Users),
        ("root", Capability::Root),
        ("parameters", Capability::Parameters),
    ] {
        if !manifest.has(capability) {
            report.skipped.push(name);
            continue;
        }
        let done = match capability {
            Capability::Databases => accounts::databases(&bench).await,
            Capability::Users => accounts::users(&bench, tenant).await,
            Capability::Root => accounts::root(&bench, tenant).await,
            _ => life::parameters(&bench, tenant).await,
        };
        report.held(name, done)?;
    }
    let login = access::login(&bench).await?;
    let running = if identity.tls {
        report.held("speaks_tls", tls::speaks_tls(&bench, tenant, &login, running).await)?
    } else {
        report.skipped.push("speaks_tls");
        running
    };
    report.held("answers_in_time_when_stopped", life::answers_in_time_when_stopped(&bench, &running).await)?;
    report.held("keeps_secrets", secrets::keeps_secrets(&bench, &running))?;
    let running = report.held("takes_another_size", life::takes_another_size(&mut bench, running).await)?;
    let running = if identity.volatile {
        report.skipped.push("keeps_what_was_written");
        running
    } else {
        let kept = life::keeps_what_was_written(&bench, tenant, &login, running).await;
        report.held("keeps_what_was_written", kept)?
    };
    let running = report.held("does_each_step_again", life::does_each_step_again(&bench, running).await)?;
    let running = if manifest.has(Capability::Backup) {
        report.held("backup", backup::backup(&bench, tenant, &login, running).await)?
    } else {
        report.skipped.push("backup");
        running
    };
    let running = if manifest.has(Capability::PointInTime) {
        report.held("point_in_time", logs::point_in_time(&bench, tenant, &login, running).await)?
    } else {
        report.skipped.push("point_in_time");
        running
    };
    let sessions = [tenant.connect(&bench.site, &login).await?, tenant.connect(&bench.site, &login).await?];
    report.held("stops_in_time_with_open_sessions", running.stop(&bench).await)?;
    drop(sessions);
    Ok(report)
}
