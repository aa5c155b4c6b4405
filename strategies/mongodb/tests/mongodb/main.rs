//! What is peculiar to this engine: a first start without a login, a set of one member, databases that are there only while
//! something is in them, and what an all-powerful account could do.

#![allow(clippy::disallowed_methods, reason = "tests plant files and look at them")]

mod backups;
mod databases;
mod durability;
mod first_start;
mod names;
mod parameters;
mod repair;
mod root;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mongodb::Client;
use mongodb::bson::{Document, doc};
use mongodb::options::{AuthMechanism, ClientOptions, Credential, ServerAddress};
use trove_conformance::Bench;
use trove_mongodb::Mongodb;
use trove_strategy::{Database, Databases, EngineError, Grantee, NewUser, Site, Users};

static MONGODB: Mongodb = Mongodb::new();

fn plain(error: EngineError) -> anyhow::Error {
    anyhow::anyhow!(error.chain())
}

fn users() -> &'static dyn Users {
    &MONGODB
}

fn databases() -> &'static dyn Databases {
    &MONGODB
}

/// A bench where the engine is installed; else it says why there is none.
async fn bench() -> Result<Option<Bench<'static>>> {
    use std::io::Write;
    match Bench::new(&MONGODB).await {
        Ok(bench) => Ok(Some(bench)),
        Err(error) if error.to_string().contains("not installed") => {
            writeln!(
                std::io::stdout(),
                "skipped: mongod is not installed (make setup fetches it where it can be had)"
            )?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The driver over TCP, as `database.name` or, without a login, as nobody.
fn client(site: &Site, login: Option<(&str, &str)>) -> Result<Client> {
    let mut options = ClientOptions::default();
    options.hosts = vec![ServerAddress::Tcp { host: site.address.to_string(), port: Some(site.port) }];
    options.direct_connection = Some(true);
    options.server_selection_timeout = Some(Duration::from_secs(5));
    if let Some((user, password)) = login {
        let (source, name) = user.split_once('.').unwrap_or(("admin", user));
        let credential = Credential::builder().username(name.to_owned()).source(source.to_owned());
        let credential = credential.password(password.to_owned()).mechanism(AuthMechanism::ScramSha256);
        options.credential = Some(credential.build());
    }
    Ok(Client::with_options(options)?)
}

/// The agent's own account, over TCP: with its password everybody could do so.
fn admin(bench: &Bench<'_>) -> Result<Client> {
    let password = std::fs::read_to_string(bench.site.secrets.join("os_admin"))?;
    client(&bench.site, Some(("os_admin", &password)))
}

/// Runs a command; what the server refuses is an error.
async fn run(client: &Client, database: &str, command: Document) -> Result<Document> {
    Ok(client.database(database).run_command(command).await?)
}

async fn make_database(site: &Site, name: &str) -> Result<()> {
    databases().create(site, &Database::named(name)).await.map_err(plain)
}

async fn make_user(site: &Site, name: &str, entered: &[&str]) -> Result<Client> {
    let password = "Secret-1";
    let databases = entered.iter().map(|name| (*name).to_owned()).collect();
    let user = NewUser { id: Grantee::named(name), password: password.into(), databases };
    users().create(site, &user).await.map_err(plain)?;
    client(site, Some((name, password)))
}

async fn as_root(site: &Site) -> Result<Client> {
    trove_strategy::Root::enable(&MONGODB, site, &"Root-secret-1".into()).await.map_err(plain)?;
    client(site, Some(("admin.root", "Root-secret-1")))
}

async fn await_that(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds().await? {
        ensure!(Instant::now() < end, "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn insert(text: &str) -> Document {
    doc! {"insert": "t", "documents": [{"text": text}]}
}
