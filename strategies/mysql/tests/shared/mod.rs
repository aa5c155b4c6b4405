//! What holds of both engines of the family, and what their tests need.

pub(crate) mod accounts;
pub(crate) mod life;
pub(crate) mod sessions;

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use trove_conformance::Bench;
use trove_strategy::{
    Account, Database, Databases, Datastore, EngineError, Grantee, NewUser, RealHost, Root, Settings, Users,
};

use crate::{AGENT, ENGINE, MAY_BE_MISSING};

/// `None`, with a word, where there is no such engine and need not be.
pub(crate) async fn bench() -> Result<Option<Bench<'static>>> {
    let account = Account::own()?;
    let host = RealHost::new(account.clone(), account);
    if MAY_BE_MISSING && ENGINE.installations(&host, None).await.map_err(plain)?.is_empty() {
        println!("skipped: it is not installed; tests/scripts/with-mysql.sh runs a command where it is");
        return Ok(None);
    }
    Bench::new(&ENGINE).await.map(Some)
}

/// The name of the agent's account.
pub(crate) fn own(bench: &Bench<'_>) -> String {
    AGENT.unwrap_or(&bench.site.engine_account).to_owned()
}

pub(crate) fn plain(error: EngineError) -> anyhow::Error {
    anyhow::anyhow!("{:?}: {}", error.kind(), error.chain())
}

pub(crate) fn users() -> &'static dyn Users {
    &ENGINE
}

pub(crate) fn databases() -> &'static dyn Databases {
    &ENGINE
}

pub(crate) fn root() -> &'static dyn Root {
    &ENGINE
}

pub(crate) fn id(name: &str, host: &str) -> Grantee {
    Grantee { name: name.to_owned(), host: host.to_owned() }
}

pub(crate) fn settings(parameters: &[(&str, serde_json::Value)]) -> Settings {
    let mut settings = Settings::default();
    settings.parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    settings
}

pub(crate) async fn make_database(bench: &Bench<'_>, name: &str) -> Result<()> {
    databases().create(&bench.site, &Database::named(name)).await.map_err(plain)
}

pub(crate) async fn make_user(bench: &Bench<'_>, id: &Grantee, password: &str, entered: &[&str]) -> Result<()> {
    let databases = entered.iter().map(|name| (*name).to_owned()).collect();
    let new = NewUser { id: id.clone(), password: password.into(), databases };
    users().create(&bench.site, &new).await.map_err(plain)
}

/// A tenant's connection, from the loopback address.
pub(crate) async fn login(
    bench: &Bench<'_>,
    user: &str,
    password: &str,
    database: Option<&str>,
) -> Result<mysql_async::Conn> {
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
pub(crate) fn client(bench: &Bench<'_>, user: &str, password: &str, database: &str, sql: &str) -> Result<String> {
    let identity = ENGINE.identity();
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
    let output = command.output().with_context(|| of.program.clone())?;
    let said = String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

pub(crate) async fn one(connection: &mut mysql_async::Conn, sql: &str) -> Result<String> {
    let value: Option<Option<String>> = connection.query_first(sql).await?;
    Ok(value.flatten().unwrap_or_default())
}
