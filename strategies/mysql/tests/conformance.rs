//! MariaDB passes the suite, and MySQL where it is installed.

#![allow(clippy::disallowed_methods, reason = "tests look for programs")]

use std::io::Write as _;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use mysql_async::prelude::Queryable;
use secrecy::ExposeSecret;
use trove_conformance::{Bench, Durability, Login, Session, Tenant};
use trove_mysql::Mysql;
use trove_strategy::{Datastore, Site};

struct Tcp {
    client: &'static str,
    verify: &'static str,
}

const MARIADB: Tcp = Tcp { client: "mariadb", verify: "--ssl-verify-server-cert" };
const MYSQL: Tcp = Tcp { client: "mysql", verify: "--ssl-mode=VERIFY_CA" };

/// A session of a library in clear, and for each question one of the client program with TLS.
enum Open {
    Clear(Box<mysql_async::Conn>),
    Tls(Box<tokio::process::Command>),
}

async fn connect(site: &Site, login: &Login) -> Result<mysql_async::Conn> {
    let mut options = mysql_async::OptsBuilder::default();
    options = options.ip_or_hostname(site.address.to_string()).tcp_port(site.port).prefer_socket(false);
    if !login.user.is_empty() {
        options = options.user(Some(&login.user)).pass(Some(login.password.expose_secret()));
    }
    if !login.database.is_empty() {
        options = options.db_name(Some(&login.database));
    }
    Ok(mysql_async::Conn::new(options).await?)
}

#[async_trait]
impl Session for Open {
    async fn ask(&mut self) -> Result<()> {
        match self {
            Self::Clear(connection) => Ok(connection.query_drop("select 1").await?),
            Self::Tls(client) => {
                let output = client.output().await?;
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                ensure!(said.contains("TLS_"), "{said} {}", String::from_utf8_lossy(&output.stderr));
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Tenant for Tcp {
    async fn connect(&self, site: &Site, login: &Login) -> Result<Box<dyn Session>> {
        let Some(authority) = &login.authority else {
            return Ok(Box::new(Open::Clear(Box::new(connect(site, login).await?))));
        };
        let mut client = tokio::process::Command::new(self.client);
        client.arg("--no-defaults").arg(format!("--host={}", site.address)).arg(format!("--port={}", site.port));
        client.arg(format!("--ssl-ca={}", authority.display())).arg(self.verify);
        client.arg(format!("--user={}", login.user)).arg(format!("--database={}", login.database));
        client.args(["--skip-column-names", "--execute", "show session status like 'Ssl_cipher'"]);
        client.env("MYSQL_PWD", login.password.expose_secret()).kill_on_drop(true);
        Ok(Box::new(Open::Tls(Box::new(client))))
    }

    fn durability(&self) -> Option<&dyn Durability> {
        Some(self)
    }

    fn live_parameter(&self) -> Option<(&'static str, serde_json::Value, &'static str)> {
        Some(("wait_timeout", 777.into(), "777"))
    }
}

#[async_trait]
impl Durability for Tcp {
    async fn write(&self, site: &Site, login: &Login, text: &str) -> Result<()> {
        let mut connection = connect(site, login).await?;
        connection.query_drop("create table if not exists texts (text text)").await?;
        Ok(connection.exec_drop("insert into texts values (?)", (text,)).await?)
    }

    async fn read(&self, site: &Site, login: &Login) -> Result<Vec<String>> {
        Ok(connect(site, login).await?.query("select text from texts").await?)
    }
}

async fn passes(datastore: Mysql, tenant: &Tcp, skipped: &[&str]) -> Result<()> {
    let report = trove_conformance::run(&datastore, tenant).await?;
    ensure!(report.skipped == skipped, "skipped: {:?}", report.skipped);
    ensure!(report.passed.len() + skipped.len() == 19, "{:?}", report.passed);
    Ok(())
}

#[tokio::test]
async fn mariadb_passes_the_suite() -> Result<()> {
    passes(Mysql::for_mariadb(), &MARIADB, &[]).await
}

#[tokio::test]
async fn mysql_passes_the_suite() -> Result<()> {
    let account = trove_strategy::Account::own()?;
    let host = trove_strategy::RealHost::new(account.clone(), account);
    let found = Mysql::for_mysql().installations(&host, None).await;
    if found.map_err(|error| anyhow::anyhow!(error.chain()))?.is_empty() {
        println!("skipped: no mysqld is installed (MariaDB's is none)");
        return Ok(());
    }
    passes(Mysql::for_mysql(), &MYSQL, &["backup", "point_in_time"]).await
}

/// How many choices of values: all that there is time for where everything is asked for.
fn choices() -> usize {
    if std::env::var_os("TROVE_TEST_DEPTH").is_some_and(|depth| depth == "full") { 100 } else { 6 }
}

async fn values(mysql: Mysql) -> Result<()> {
    let Ok(bench) = Bench::new(&mysql).await else {
        writeln!(std::io::stdout(), "skipped: the server is not installed")?;
        return Ok(());
    };
    let running = bench.start().await?;
    let (running, tried) = trove_conformance::try_values(&bench, running, choices()).await?;
    writeln!(std::io::stdout(), "{tried:?}")?;
    running.stop(&bench).await
}

#[tokio::test]
async fn values_that_mariadb_accepts_work_and_those_that_it_refuses_change_nothing() -> Result<()> {
    values(Mysql::for_mariadb()).await
}

#[tokio::test]
async fn mysql_passes_with_values_that_it_accepts_and_unchanged_by_those_that_it_refuses() -> Result<()> {
    values(Mysql::for_mysql()).await
}
