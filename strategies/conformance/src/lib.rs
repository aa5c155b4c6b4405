//! The suite that every datastore passes on its real engine.
//!
//! A strategy's test is a few lines: a [`Tenant`] that logs in as a tenant would, and [`run`]. What the manifest does not
//! announce is reported as skipped by name; everything else has to hold.

#![allow(clippy::disallowed_methods, reason = "a scratch directory that is made for a test")]

mod accounts;
mod bench;
mod life;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use async_trait::async_trait;
use secrecy::SecretString;
use trove_strategy::{Datastore, Described, Manifest, Site};

pub use bench::{Bench, Running};

/// Who logs in, and where to.
#[derive(Clone, Debug)]
pub struct Login {
    /// The account.
    pub user: String,
    /// Its password.
    pub password: SecretString,
    /// The database, for engines that have several.
    pub database: String,
}

/// The engine as its tenants use it: over TCP, with a password.
#[async_trait]
pub trait Tenant: Send + Sync {
    /// Stores a text so that it survives a crash once this returns.
    async fn write(&self, site: &Site, login: &Login, text: &str) -> Result<()>;
    /// Every text that was stored in that database, in any order.
    async fn read(&self, site: &Site, login: &Login) -> Result<Vec<String>>;
    /// A parameter that can be changed while the engine runs, a value, and how the engine writes that.
    fn live_parameter(&self) -> (&'static str, serde_json::Value, &'static str);
}

/// What the suite did.
#[derive(Debug, Default)]
pub struct Report {
    /// What held.
    pub passed: Vec<&'static str>,
    /// What the manifest does not announce.
    pub skipped: Vec<&'static str>,
}

/// Runs the whole suite in a scratch directory of its own.
///
/// # Errors
/// The first thing that does not hold, by name.
pub async fn run(datastore: &dyn Datastore, tenant: &dyn Tenant) -> Result<Report> {
    let bench = Bench::new(datastore).await?;
    let manifest = Manifest::derive(datastore, bench.site.installation.clone(), Described::default());
    let has = |capability: &str| manifest.capabilities.iter().any(|name| name == capability);
    let mut report = Report::default();

    life::initialises_after_a_half_done_start(&bench).await.context("initialises_after_a_half_done_start")?;
    report.passed.push("initialises_after_a_half_done_start");
    life::listens_nowhere_when_private(&bench).await.context("listens_nowhere_when_private")?;
    report.passed.push("listens_nowhere_when_private");
    let mut running = bench.start().await.context("starts_and_answers")?;
    report.passed.push("starts_and_answers");
    life::knows_itself(&bench).await.context("knows_itself")?;
    report.passed.push("knows_itself");

    for (name, announced) in [
        ("databases", has("databases")),
        ("users", has("users")),
        ("root", has("root")),
        ("parameters", has("parameters")),
    ] {
        if !announced {
            report.skipped.push(name);
            continue;
        }
        let done = match name {
            "databases" => accounts::databases(&bench).await,
            "users" => accounts::users(&bench, tenant).await,
            "root" => accounts::root(&bench, tenant).await,
            _ => life::parameters(&bench, tenant).await,
        };
        done.context(name)?;
        report.passed.push(name);
    }
    if has("users") {
        running = life::keeps_what_was_written(&bench, tenant, running).await.context("keeps_what_was_written")?;
        report.passed.push("keeps_what_was_written");
    } else {
        report.skipped.push("keeps_what_was_written");
    }
    running.stop(&bench).await.context("stops_in_time")?;
    report.passed.push("stops_in_time");
    Ok(report)
}

/// Settings with one parameter set.
fn with_parameter(name: &str, value: serde_json::Value) -> trove_strategy::Settings {
    trove_strategy::Settings { parameters: BTreeMap::from([(name.to_owned(), value)]), ..Default::default() }
}
