//! The log in pieces: shipped while tenants write, and replayed on a backup to any moment.

#![allow(clippy::disallowed_methods, reason = "tests plant files and look at them")]

mod hostile;
mod ledger;
mod theirs;
mod times;

use std::io::Cursor;

use anyhow::{Context, Result, ensure};
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use trove_conformance::{Bench, Running};
use trove_postgresql::Postgresql;
use trove_strategy::{
    Backup, Datastore, Directory, EngineError, FirstStart, LogPiece, Logs, Root, Settings, Site, StartMode,
};

static POSTGRESQL: Postgresql = Postgresql::new();

fn plain(error: EngineError) -> anyhow::Error {
    anyhow::anyhow!("{:?}: {}", error.kind(), error.chain())
}

fn logs() -> &'static dyn Logs {
    &POSTGRESQL
}

/// The tenant's superuser.
async fn as_root(site: &Site) -> Result<Client> {
    let password = SecretString::from("Root-secret-1");
    Root::enable(&POSTGRESQL, site, &password).await.map_err(plain)?;
    let mut config = tokio_postgres::Config::new();
    config.host(site.address.to_string()).port(site.port).user("root").dbname("postgres");
    let (client, connection) = config.password(password.expose_secret()).connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The first column.
async fn texts(client: &Client, sql: &str) -> Result<Vec<String>> {
    let rows = client.simple_query(sql).await?;
    let text = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    };
    Ok(rows.iter().filter_map(text).collect())
}

async fn taken(site: &Site) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    Backup::take(&POSTGRESQL, site, &mut bytes).await.map_err(plain)?;
    Ok(bytes.into_inner())
}

/// What was shipped, and where the next piece begins.
#[derive(Clone, Default)]
struct Shipped {
    pieces: Vec<LogPiece>,
    next: String,
}

impl Shipped {
    async fn begin(site: &Site) -> Result<Self> {
        Ok(Self { pieces: Vec::new(), next: logs().keep(site).await.map_err(plain)? })
    }

    /// Stores every piece that is closed.
    async fn drain(&mut self, site: &Site) -> Result<(), EngineError> {
        while let Some(piece) = logs().piece(site, &self.next).await? {
            logs().stored(site, &piece.until).await?;
            self.next.clone_from(&piece.until);
            self.pieces.push(piece);
        }
        Ok(())
    }

    /// Closes what is open, where something is, and stores it.
    async fn ship(&mut self, site: &Site) -> Result<(), EngineError> {
        if logs().open_bytes(site).await? > 0 {
            logs().close(site).await?;
        }
        self.drain(site).await
    }
}

/// Restores and replays as the agent does, in the place of whatever was there.
async fn replayed(
    bench: &Bench<'_>,
    backup: &[u8],
    pieces: &[LogPiece],
    until: Option<std::time::SystemTime>,
) -> Result<(), EngineError> {
    let site = &bench.site;
    site.host.remove(&Directory::Data.join("data")).await?;
    Backup::restore(&POSTGRESQL, site, &mut Cursor::new(backup.to_vec())).await?;
    for piece in pieces {
        logs().take(site, piece.clone()).await?;
    }
    logs().replay(site, until).await
}

/// Starts what was replayed as the agent does.
async fn starts(bench: &Bench<'_>) -> Result<Running> {
    let (engine, site) = (POSTGRESQL.engine(), &bench.site);
    let first = engine.initialise(site).await.map_err(plain)?;
    ensure!(first == FirstStart::Normal, "it is not found made: {first:?}");
    engine.configure(site, &Settings::default()).await.map_err(plain)?;
    engine.forget_earlier_life(site).await.map_err(plain)?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await.context("what was replayed")?;
    for left in ["recovery.signal", "trove_log_taken", "postgresql.auto.conf.replaying"] {
        ensure!(!site.data.join(left).exists(), "{left} is there");
    }
    Ok(running)
}
