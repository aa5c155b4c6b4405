//! PostgreSQL passes the suite, and has its peculiarities.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use secrecy::ExposeSecret;
use tokio_postgres::{NoTls, SimpleQueryMessage};
use trove_conformance::{Bench, Durability, Login, Session, Tenant};
use trove_postgresql::Postgresql;
use trove_strategy::{Applied, Datastore, Grantee, NewUser, Settings, Site, StartMode, TlsMode};

static POSTGRESQL: Postgresql = Postgresql::new();

struct Psql;

async fn query(site: &Site, login: &Login, sql: &str) -> Result<Vec<String>> {
    Open::connect(site, login).await?.query(sql).await
}

/// A session of a library in clear, and for each question one of `psql` with TLS.
enum Open {
    Clear(tokio_postgres::Client),
    Tls(Box<tokio::process::Command>),
}

impl Open {
    async fn connect(site: &Site, login: &Login) -> Result<Self> {
        // In the way of the engine's own clients: a name of an account there is always one.
        let user = if login.user.is_empty() { "postgres" } else { &login.user };
        let database = if login.database.is_empty() { "postgres" } else { &login.database };
        let password = login.password.expose_secret();
        if let Some(authority) = &login.authority {
            let mut psql = tokio::process::Command::new("psql");
            psql.args(["--no-psqlrc", "--no-password", "--tuples-only", "--no-align"]).kill_on_drop(true);
            psql.env("PGHOST", site.address.to_string()).env("PGPORT", site.port.to_string());
            psql.env("PGUSER", user).env("PGPASSWORD", password).env("PGDATABASE", database);
            psql.env("PGSSLMODE", "verify-ca").env("PGSSLROOTCERT", authority);
            return Ok(Self::Tls(Box::new(psql)));
        }
        let mut config = tokio_postgres::Config::new();
        config.host(site.address.to_string()).port(site.port).user(user).dbname(database).password(password);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(Self::Clear(client))
    }

    async fn query(&mut self, sql: &str) -> Result<Vec<String>> {
        let client = match self {
            Self::Clear(client) => client,
            Self::Tls(psql) => {
                let output = psql.arg("--command").arg(sql).output().await?;
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                return Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect());
            }
        };
        let text = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        };
        Ok(client.simple_query(sql).await?.into_iter().filter_map(text).collect())
    }
}

#[async_trait]
impl Session for Open {
    async fn ask(&mut self) -> Result<()> {
        self.query("select 1").await.map(|_| ())
    }
}

#[async_trait]
impl Tenant for Psql {
    async fn connect(&self, site: &Site, login: &Login) -> Result<Box<dyn Session>> {
        Ok(Box::new(Open::connect(site, login).await?))
    }

    fn durability(&self) -> Option<&dyn Durability> {
        Some(self)
    }

    fn live_parameter(&self) -> Option<(&'static str, serde_json::Value, &'static str)> {
        Some(("work_mem", "7MB".into(), "7168"))
    }
}

#[async_trait]
impl Durability for Psql {
    async fn write(&self, site: &Site, login: &Login, text: &str) -> Result<()> {
        let sql = format!("create table if not exists texts (text text); insert into texts values ('{text}')");
        query(site, login, &sql).await.map(|_| ())
    }

    async fn read(&self, site: &Site, login: &Login) -> Result<Vec<String>> {
        query(site, login, "select text from texts").await
    }
}

#[tokio::test]
async fn postgresql_passes_the_suite() -> Result<()> {
    let report = trove_conformance::run(&POSTGRESQL, &Psql).await?;
    ensure!(report.skipped.is_empty(), "skipped: {:?}", report.skipped);
    ensure!(report.passed.len() == 19, "{:?}", report.passed);
    Ok(())
}

#[tokio::test]
async fn the_agents_account_has_no_way_in_from_the_network_and_tls_is_offered() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let admin = Login::new("os_admin", "", "postgres");
    let refused = query(&bench.site, &admin, "select 1").await.err().map(|error| format!("{error:?}"));
    ensure!(refused.as_ref().is_some_and(|text| text.contains("pg_hba.conf rejects")), "{refused:?}");

    let address = format!("{}:{}", bench.site.address, bench.site.port);
    let spoken = std::process::Command::new("openssl")
        .args(["s_client", "-starttls", "postgres", "-verify_return_error", "-connect", &address, "-CAfile"])
        .arg(bench.site.path(&bench.site.tls.authority))
        .stdin(std::process::Stdio::null())
        .output()?;
    let spoken = String::from_utf8_lossy(&spoken.stdout).into_owned();
    ensure!(spoken.contains("Verify return code: 0 (ok)"), "{spoken}");

    let user = Login::new("u", "Secret-1", "postgres");
    let new =
        NewUser { id: Grantee { name: "u".into(), host: "%".into() }, password: "Secret-1".into(), databases: vec![] };
    let users = POSTGRESQL.users().expect("announced");
    users.create(&bench.site, &new).await.map_err(|error| anyhow::anyhow!(error.chain()))?;
    ensure!(query(&bench.site, &user, "select 1").await? == ["1"], "plain TCP with a password in mode basic");
    let mut enforced = Settings::default();
    enforced.tls = TlsMode::Enforced;
    bench.take_up(&enforced).await.map_err(|error| anyhow::anyhow!(error.chain()))?;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while query(&bench.site, &user, "select 1").await.is_ok() {
        ensure!(std::time::Instant::now() < end, "plain TCP is still accepted in mode enforced");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    running.stop(&bench).await
}

/// How many choices of values: all that there is time for where everything is asked for.
fn choices() -> usize {
    if std::env::var_os("TROVE_TEST_DEPTH").is_some_and(|depth| depth == "full") { 200 } else { 20 }
}

#[tokio::test]
async fn values_that_are_accepted_work_and_those_that_are_refused_change_nothing() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let (running, tried) = trove_conformance::try_values(&bench, running, choices()).await?;
    println!("{tried:?}");
    running.stop(&bench).await
}

/// Another flavor gives other defaults, and the values of a configuration group stay.
#[tokio::test]
async fn another_size_renders_the_defaults_anew_under_the_values_that_were_chosen() -> Result<()> {
    let mut bench = Bench::new(&POSTGRESQL).await?;
    let plain = |error: trove_strategy::EngineError| anyhow::anyhow!(error.chain());
    let parameters = POSTGRESQL.parameters().expect("announced");
    let mut settings = Settings::default();
    settings.parameters = [("work_mem".to_owned(), "7MB".into()), ("max_connections".to_owned(), 61.into())].into();
    let mut running = bench.start().await?;
    let mut seen = Vec::new();
    for memory_mib in [512, 1024] {
        running.stop(&bench).await?;
        bench.site.size.memory_mib = memory_mib;
        POSTGRESQL.engine().configure(&bench.site, &settings).await.map_err(plain)?;
        running = bench.spawn_with(StartMode::Normal, &settings)?;
        bench.await_answer(&mut running).await?;
        let applied = parameters.apply(&bench.site, &settings).await.map_err(plain)?;
        ensure!(applied.values().all(|became| *became == Applied::Live), "{applied:?}");
        let values: BTreeMap<String, String> =
            parameters.values(&bench.site).await.map_err(plain)?.into_iter().collect();
        ensure!(values["work_mem"] == "7168" && values["max_connections"] == "61", "the values are gone");
        seen.push(values["shared_buffers"].parse::<u64>()?);
    }
    ensure!(seen[1] == 2 * seen[0], "shared_buffers were {seen:?}");
    running.stop(&bench).await
}

#[tokio::test]
async fn what_backups_and_replicas_need_is_there_from_the_first_start() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let new =
        NewUser { id: Grantee { name: "u".into(), host: "%".into() }, password: "Secret-1".into(), databases: vec![] };
    let users = POSTGRESQL.users().expect("announced");
    users.create(&bench.site, &new).await.map_err(|error| anyhow::anyhow!(error.chain()))?;
    let user = Login::new("u", "Secret-1", "postgres");
    let mut expected = vec![
        ("wal_level", "replica"),
        ("archive_mode", "off"),
        ("data_checksums", "on"),
        ("max_wal_senders", "10"),
        ("max_replication_slots", "10"),
        ("hot_standby", "on"),
    ];
    if bench.site.installation.major.parse::<u32>()? >= 17 {
        expected.push(("summarize_wal", "on"));
    }
    for (name, value) in expected {
        let is = query(&bench.site, &user, &format!("show {name}")).await?;
        ensure!(is == [value], "{name} is {is:?}");
    }
    running.stop(&bench).await
}
