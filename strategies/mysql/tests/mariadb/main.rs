//! What is peculiar to MariaDB: accounts by host, patterns in grants, a log of changes, and a root that may do nearly everything.

#![allow(clippy::disallowed_methods, reason = "tests plant files and look at them")]

mod accounts;
mod hostile;
mod life;
mod parameters;

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use trove_conformance::Bench;
use trove_mysql::Mysql;
use trove_strategy::{Database, Databases, Datastore, EngineError, Grantee, NewUser, Root, Settings, Users};

static MARIADB: Mysql = Mysql::for_mariadb();

fn plain(error: EngineError) -> anyhow::Error {
    anyhow::anyhow!("{:?}: {}", error.kind(), error.chain())
}

fn users() -> &'static dyn Users {
    &MARIADB
}

fn databases() -> &'static dyn Databases {
    &MARIADB
}

fn root() -> &'static dyn Root {
    &MARIADB
}

fn id(name: &str, host: &str) -> Grantee {
    Grantee { name: name.to_owned(), host: host.to_owned() }
}

fn settings(parameters: &[(&str, serde_json::Value)]) -> Settings {
    let mut settings = Settings::default();
    settings.parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    settings
}

async fn make_database(bench: &Bench<'_>, name: &str) -> Result<()> {
    databases().create(&bench.site, &Database::named(name)).await.map_err(plain)
}

async fn make_user(bench: &Bench<'_>, id: &Grantee, password: &str, entered: &[&str]) -> Result<()> {
    let databases = entered.iter().map(|name| (*name).to_owned()).collect();
    let new = NewUser { id: id.clone(), password: password.into(), databases };
    users().create(&bench.site, &new).await.map_err(plain)
}

/// A tenant's connection, from the loopback address.
async fn login(bench: &Bench<'_>, user: &str, password: &str, database: Option<&str>) -> Result<mysql_async::Conn> {
    let options = mysql_async::OptsBuilder::default()
        .ip_or_hostname(bench.site.address.to_string())
        .tcp_port(bench.site.port)
        .prefer_socket(false)
        .user(Some(user))
        .pass(Some(password))
        .db_name(database);
    Ok(mysql_async::Conn::new(options).await?)
}

/// The client program with the arguments that the manifest names, and the statement. With TLS.
fn client(bench: &Bench<'_>, user: &str, password: &str, database: &str, sql: &str) -> Result<String> {
    let identity = MARIADB.identity();
    let of = identity.client.context("a client")?;
    let site = &bench.site;
    let authority = site.path(&site.tls.authority);
    let fill = |text: &str| {
        text.replace("{address}", &site.address.to_string())
            .replace("{port}", &site.port.to_string())
            .replace("{ca_file}", &authority.to_string_lossy())
            .replace("{user}", user)
            .replace("{database}", database)
            .replace("{password}", password)
    };
    let mut command = Command::new(&of.program);
    command.args(of.args.iter().map(|arg| fill(arg))).envs(of.env.iter().map(|(name, value)| (name, fill(value))));
    command.args(["--batch", "--skip-column-names", "--execute", sql]).stdin(Stdio::null());
    let output = command.output().context("mariadb")?;
    let said = String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

async fn one(connection: &mut mysql_async::Conn, sql: &str) -> Result<String> {
    let value: Option<Option<String>> = connection.query_first(sql).await?;
    Ok(value.flatten().unwrap_or_default())
}
