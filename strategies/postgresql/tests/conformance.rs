//! PostgreSQL passes the suite, and has its peculiarities.

use anyhow::{Result, ensure};
use async_trait::async_trait;
use secrecy::ExposeSecret;
use tokio_postgres::{NoTls, SimpleQueryMessage};
use trove_conformance::{Bench, Login, Tenant};
use trove_postgresql::Postgresql;
use trove_strategy::{Datastore, Grantee, NewUser, Settings, Site, TlsMode};

struct Psql;

async fn query(site: &Site, login: &Login, sql: &str) -> Result<Vec<String>> {
    let mut config = tokio_postgres::Config::new();
    config.host(site.address.to_string()).port(site.port).user(&login.user).dbname(&login.database);
    config.password(login.password.expose_secret());
    let (client, connection) = config.connect(NoTls).await?;
    let driver = tokio::spawn(connection);
    let messages = client.simple_query(sql).await;
    drop(client);
    driver.await??;
    let text = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    };
    Ok(messages?.into_iter().filter_map(text).collect())
}

#[async_trait]
impl Tenant for Psql {
    async fn write(&self, site: &Site, login: &Login, text: &str) -> Result<()> {
        let sql = format!("create table if not exists texts (text text); insert into texts values ('{text}')");
        query(site, login, &sql).await.map(|_| ())
    }

    async fn read(&self, site: &Site, login: &Login) -> Result<Vec<String>> {
        query(site, login, "select text from texts").await
    }

    fn live_parameter(&self) -> (&'static str, serde_json::Value, &'static str) {
        ("work_mem", "7MB".into(), "7168")
    }
}

#[tokio::test]
async fn postgresql_passes_the_suite() -> Result<()> {
    let report = trove_conformance::run(&Postgresql, &Psql).await?;
    ensure!(report.skipped.is_empty(), "skipped: {:?}", report.skipped);
    ensure!(report.passed.len() == 10, "{:?}", report.passed);
    Ok(())
}

#[tokio::test]
async fn the_agents_account_has_no_way_in_from_the_network_and_tls_is_offered() -> Result<()> {
    let bench = Bench::new(&Postgresql).await?;
    let running = bench.start().await?;
    let admin = Login { user: "os_admin".into(), password: "".into(), database: "postgres".into() };
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

    let user = Login { user: "u".into(), password: "Secret-1".into(), database: "postgres".into() };
    let new =
        NewUser { id: Grantee { name: "u".into(), host: "%".into() }, password: "Secret-1".into(), databases: vec![] };
    let users = Postgresql.users().expect("announced");
    users.create(&bench.site, &new).await.map_err(|error| anyhow::anyhow!(error.chain()))?;
    ensure!(query(&bench.site, &user, "select 1").await? == ["1"], "plain TCP with a password in mode basic");
    let enforced = Settings { tls: TlsMode::Enforced, ..Settings::default() };
    let engine = Postgresql.engine();
    engine.configure(&bench.site, &enforced).await.map_err(|error| anyhow::anyhow!(error.chain()))?;
    engine.reload(&bench.site).await.map_err(|error| anyhow::anyhow!(error.chain()))?;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while query(&bench.site, &user, "select 1").await.is_ok() {
        ensure!(std::time::Instant::now() < end, "plain TCP is still accepted in mode enforced");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    running.stop(&bench).await
}
