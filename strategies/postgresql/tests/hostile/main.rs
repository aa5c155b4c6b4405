//! What a tenant can do to the agent's own sessions, and what must be refused.

#![allow(clippy::disallowed_methods, reason = "tests plant files and look at them")]

mod backups;
mod encodings;
mod owned;
mod passwords;
mod prepared;
mod reach;
mod replaced;
mod superusers;
mod theirs;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use trove_conformance::Bench;
use trove_postgresql::Postgresql;
use trove_strategy::{
    Applied, Database, Databases, Datastore, EngineError, Grantee, Kind, NewUser, Settings, Site, UserChange, Users,
};

static POSTGRESQL: Postgresql = Postgresql::new();

fn plain(error: EngineError) -> anyhow::Error {
    anyhow::anyhow!(error.chain())
}

fn id(name: &str) -> Grantee {
    Grantee { name: name.to_owned(), host: "%".to_owned() }
}

fn users() -> &'static dyn Users {
    &POSTGRESQL
}

async fn connect(site: &Site, user: &str, password: &SecretString, database: &str) -> Result<Client> {
    let mut config = tokio_postgres::Config::new();
    config.host(site.address.to_string()).port(site.port).user(user).dbname(database);
    config.password(password.expose_secret());
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn root() -> &'static dyn trove_strategy::Root {
    &POSTGRESQL
}

/// The tenant's superuser, in a database.
async fn as_root(site: &Site, database: &str) -> Result<Client> {
    let password = SecretString::from("Root-secret-1");
    root().enable(site, &password).await.map_err(plain)?;
    connect(site, "root", &password, database).await
}

/// The first column of the first row.
async fn text(client: &Client, sql: &str) -> Result<String> {
    let rows = client.simple_query(sql).await?;
    let row = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row.unwrap_or_default().to_owned())
}

async fn make_database(site: &Site, name: &str) -> Result<()> {
    let database = Database { name: name.to_owned(), character_set: None, collation: None };
    Databases::create(&POSTGRESQL, site, &database).await.map_err(plain)
}

async fn make_user(site: &Site, name: &str, databases: &[&str]) -> Result<SecretString> {
    let password = SecretString::from("Secret-1");
    let databases = databases.iter().map(|name| (*name).to_owned()).collect();
    users().create(site, &NewUser { id: id(name), password: password.clone(), databases }).await.map_err(plain)?;
    Ok(password)
}

#[tokio::test]
async fn a_parameter_does_not_change_how_the_agents_texts_are_read() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    bench.take_up(&with("standard_conforming_strings", false.into())).await.map_err(plain)?;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let password = make_user(&bench.site, "u", &[]).await?;
    loop {
        let client = connect(&bench.site, "u", &password, "postgres").await?;
        let row = client.query_one("select current_setting('standard_conforming_strings')", &[]).await?;
        if row.get::<_, String>(0) == "off" {
            break;
        }
        ensure!(std::time::Instant::now() < end, "the parameter is not in force");
    }
    let name = r"\'; create role injected superuser login; --";
    let _ = users().get(&bench.site, &id(name)).await;
    let injected = users().get(&bench.site, &id("injected")).await.map_err(plain)?;
    ensure!(injected.is_none(), "a name was run as SQL by the superuser");
    running.stop(&bench).await
}

#[tokio::test]
async fn settings_of_a_tenants_database_do_not_bind_the_agent() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    make_database(&bench.site, "d").await?;
    let password = make_user(&bench.site, "u", &["d"]).await?;
    let tenant = connect(&bench.site, "u", &password, "d").await?;
    tenant.batch_execute("alter database d set default_transaction_read_only = on").await?;
    users().delete(&bench.site, &id("u")).await.map_err(plain)?;
    running.stop(&bench).await
}

#[tokio::test]
async fn a_lock_that_a_tenant_holds_does_not_hold_up_the_agent() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    make_database(&bench.site, "d").await?;
    let password = make_user(&bench.site, "a", &["d"]).await?;
    make_user(&bench.site, "b", &["d"]).await?;
    connect(&bench.site, "a", &password, "d").await?.batch_execute("create table t (n int)").await?;
    let holder = connect(&bench.site, "b", &password, "d").await?;
    holder.batch_execute("begin; lock table t").await?;
    let limit = std::time::Duration::from_secs(30);
    let deleted = tokio::time::timeout(limit, users().delete(&bench.site, &id("a"))).await;
    ensure!(deleted.is_ok(), "it waits for as long as the tenant likes");
    ensure!(deleted?.is_err_and(|error| error.kind() == Kind::Busy), "not said to be busy");
    holder.batch_execute("rollback").await?;
    users().delete(&bench.site, &id("a")).await.map_err(plain)?;
    drop(holder);
    running.stop(&bench).await
}

#[tokio::test]
async fn passwords_are_normalised_as_clients_do() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    // No-break space, ligature, decomposed umlaut: SASLprep (RFC 4013) changes all three.
    let password = SecretString::from("no\u{a0}break \u{fb01} u\u{308}");
    let new = NewUser { id: id("u"), password: password.clone(), databases: Vec::new() };
    users().create(&bench.site, &new).await.map_err(plain)?;
    connect(&bench.site, "u", &password, "postgres").await?;
    running.stop(&bench).await
}

#[tokio::test]
async fn the_servers_own_databases_are_granted_to_nobody() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    make_user(&bench.site, "u", &[]).await?;
    for name in ["postgres", "template1", "missing"] {
        let granted = POSTGRESQL.databases().expect("announced").grant(&bench.site, &id("u"), &[name.to_owned()]).await;
        let expected = if name == "missing" { Kind::Gone } else { Kind::Invalid };
        ensure!(granted.as_ref().is_err_and(|e| e.kind() == expected), "grant on {name}: {granted:?}");
    }
    running.stop(&bench).await
}

#[tokio::test]
async fn root_is_neither_renamed_nor_removed_as_a_user() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let root = POSTGRESQL.root().expect("announced");
    root.enable(&bench.site, &SecretString::from("Root-secret-1")).await.map_err(plain)?;
    let change = UserChange { name: Some("hidden".to_owned()), ..UserChange::default() };
    ensure!(users().change(&bench.site, &id("root"), &change).await.is_err(), "a superuser under another name");
    ensure!(root.is_enabled(&bench.site).await.map_err(plain)?, "root is gone");
    running.stop(&bench).await
}

fn with(name: &str, value: serde_json::Value) -> Settings {
    let mut settings = Settings::default();
    settings.parameters = BTreeMap::from([(name.to_owned(), value)]);
    settings
}

#[tokio::test]
async fn a_parameter_answers_what_becomes_of_it() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let parameters = POSTGRESQL.parameters().expect("announced");
    for (name, wrong) in [("work_mem", "abc"), ("max_connections", "0"), ("wal_sync_method", "often"), ("nope", "1")] {
        let refused = parameters.check(&bench.site, &with(name, wrong.into()).parameters).await;
        let said = refused.as_ref().err().map(EngineError::chain).unwrap_or_default();
        ensure!(said.contains(name) && refused.is_err_and(|error| error.kind() == Kind::Invalid), "{name}: {said}");
    }
    let mut settings = with("max_connections", 60.into());
    settings.parameters.insert("WORK_mem".to_owned(), "8MB".into());
    let applied = bench.take_up(&settings).await.map_err(plain)?;
    let expected = [("WORK_mem", Applied::Live), ("max_connections", Applied::NeedsRestart)];
    ensure!(applied == BTreeMap::from(expected.map(|(name, applied)| (name.to_owned(), applied))), "{applied:?}");
    running.stop(&bench).await
}

#[tokio::test]
async fn parameters_that_the_agent_owns_are_refused() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    for name in ["include", "include_dir", "archive_command", "session_preload_libraries", "ssl_passphrase_command"] {
        let refused = POSTGRESQL.engine().configure(&bench.site, &with(name, "/bin/false".into())).await;
        ensure!(refused.is_err_and(|error| error.kind() == Kind::Invalid), "{name} was accepted");
    }
    let spec = POSTGRESQL.engine().start_spec(&bench.site, &Settings::default(), trove_strategy::StartMode::Normal);
    for (name, value) in spec.args.iter().filter_map(|argument| argument.split_once('=')) {
        let refused = POSTGRESQL.engine().configure(&bench.site, &with(name, value.into())).await;
        ensure!(refused.is_err_and(|error| error.kind() == Kind::Invalid), "{name} would do nothing");
    }
    Ok(())
}
