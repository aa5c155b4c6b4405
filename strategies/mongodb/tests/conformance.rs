//! MongoDB passes the suite.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use mongodb::options::{AuthMechanism, ClientOptions, Credential, ServerAddress, Tls, TlsOptions};
use mongodb::{Client, Database};
use secrecy::ExposeSecret;
use trove_conformance::{Bench, Durability, Login, Session, Tenant};
use trove_mongodb::Mongodb;
use trove_strategy::Site;

/// The official driver, as a tenant uses it.
struct Driver;

fn client(site: &Site, login: &Login) -> Result<Client> {
    let mut options = ClientOptions::default();
    options.hosts = vec![ServerAddress::Tcp { host: site.address.to_string(), port: Some(site.port) }];
    options.direct_connection = Some(true);
    options.server_selection_timeout = Some(Duration::from_millis(1500));
    options.max_pool_size = Some(1);
    if !login.user.is_empty() {
        let (source, name) = login.user.split_once('.').unwrap_or(("admin", &login.user));
        let password = Some(login.password.expose_secret().to_owned()).filter(|password| !password.is_empty());
        let credential = Credential::builder().username(name.to_owned()).source(source.to_owned());
        options.credential = Some(credential.password(password).mechanism(AuthMechanism::ScramSha256).build());
    }
    if let Some(authority) = &login.authority {
        options.tls = Some(Tls::Enabled(TlsOptions::builder().ca_file_path(authority.clone()).build()));
    }
    Ok(Client::with_options(options)?)
}

struct Open {
    database: Database,
}

impl Open {
    fn new(site: &Site, login: &Login) -> Result<Self> {
        let database = if login.database.is_empty() { "admin" } else { &login.database };
        Ok(Self { database: client(site, login)?.database(database) })
    }
}

#[async_trait]
impl Session for Open {
    async fn ask(&mut self) -> Result<()> {
        self.database.collection::<Document>("texts").find_one(doc! {}).await?;
        Ok(())
    }
}

#[async_trait]
impl Tenant for Driver {
    async fn connect(&self, site: &Site, login: &Login) -> Result<Box<dyn Session>> {
        let mut open = Open::new(site, login)?;
        // The driver connects when it is asked.
        open.ask().await?;
        Ok(Box::new(open))
    }

    fn durability(&self) -> Option<&dyn Durability> {
        Some(self)
    }

    fn live_parameter(&self) -> Option<(&'static str, serde_json::Value, &'static str)> {
        Some(("cursorTimeoutMillis", 60_000.into(), "60000"))
    }
}

#[async_trait]
impl Durability for Driver {
    async fn write(&self, site: &Site, login: &Login, text: &str) -> Result<()> {
        Open::new(site, login)?.database.collection("texts").insert_one(doc! {"text": text}).await?;
        Ok(())
    }

    async fn read(&self, site: &Site, login: &Login) -> Result<Vec<String>> {
        let texts = Open::new(site, login)?.database.collection::<Document>("texts").find(doc! {}).await?;
        let all: Vec<Document> = texts.try_collect().await?;
        all.iter().map(|text| Ok(text.get_str("text").context("a text")?.to_owned())).collect()
    }
}

#[tokio::test]
async fn mongodb_passes_the_suite() -> Result<()> {
    let mongodb = Mongodb::new();
    if Bench::new(&mongodb).await.is_err_and(|error| error.to_string().contains("not installed")) {
        println!("skipped: mongod is not installed (make setup fetches it where it can be had)");
        return Ok(());
    }
    let report = trove_conformance::run(&mongodb, &Driver).await?;
    ensure!(report.skipped == ["point_in_time"], "skipped: {:?}", report.skipped);
    ensure!(report.passed.len() == 18, "{:?}", report.passed);
    Ok(())
}

/// How many choices of values: all that there is time for where everything is asked for.
fn choices() -> usize {
    if std::env::var_os("TROVE_TEST_DEPTH").is_some_and(|depth| depth == "full") { 100 } else { 10 }
}

#[tokio::test]
async fn values_that_are_accepted_work_and_those_that_are_refused_change_nothing() -> Result<()> {
    let mongodb = Mongodb::new();
    let Ok(bench) = Bench::new(&mongodb).await else {
        println!("skipped: mongod is not installed");
        return Ok(());
    };
    let running = bench.start().await?;
    let (running, tried) = trove_conformance::try_values(&bench, running, choices()).await?;
    println!("{tried:?}");
    running.stop(&bench).await
}
