//! Redis and Valkey pass the suite.

#![allow(clippy::disallowed_methods, reason = "tests plant files and look at them")]

use anyhow::{Result, ensure};
use async_trait::async_trait;
use secrecy::ExposeSecret;
use trove_conformance::{Bench, Durability, Login, Session, Tenant};
use trove_redis::Redis;
use trove_strategy::{Datastore, Grantee, NewUser, Site};

struct Tcp;

async fn connect(site: &Site, login: &Login) -> Result<redis::aio::MultiplexedConnection> {
    use redis::IntoConnectionInfo;
    let mut named = redis::RedisConnectionInfo::default();
    if !login.user.is_empty() {
        named = named.set_username(&login.user).set_password(login.password.expose_secret());
    }
    let address = redis::ConnectionAddr::Tcp(site.address.to_string(), site.port).into_connection_info()?;
    let client = redis::Client::open(address.set_redis_settings(named))?;
    Ok(client.get_multiplexed_async_connection().await?)
}

/// A connection of a library in clear, and for each question one of the client program with TLS.
enum Open {
    Clear(redis::aio::MultiplexedConnection),
    Tls(Box<tokio::process::Command>),
}

#[async_trait]
impl Session for Open {
    async fn ask(&mut self) -> Result<()> {
        match self {
            Self::Clear(connection) => Ok(redis::cmd("EXISTS").arg("texts").exec_async(connection).await?),
            Self::Tls(client) => {
                let said = String::from_utf8(client.output().await?.stdout)?;
                ensure!(said.trim() == "0" || said.trim() == "1", "{said}");
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Tenant for Tcp {
    async fn connect(&self, site: &Site, login: &Login) -> Result<Box<dyn Session>> {
        let Some(authority) = &login.authority else {
            return Ok(Box::new(Open::Clear(connect(site, login).await?)));
        };
        let mut client = tokio::process::Command::new("redis-cli");
        client.arg("-h").arg(site.address.to_string()).arg("-p").arg(trove_redis::TLS_PORT.to_string());
        client.arg("--tls").arg("--cacert").arg(authority).arg("--user").arg(&login.user).arg("EXISTS").arg("texts");
        client.env("REDISCLI_AUTH", login.password.expose_secret()).kill_on_drop(true);
        Ok(Box::new(Open::Tls(Box::new(client))))
    }

    fn durability(&self) -> Option<&dyn Durability> {
        Some(self)
    }

    fn live_parameter(&self) -> Option<(&'static str, serde_json::Value, &'static str)> {
        Some(("maxmemory-samples", 7.into(), "7"))
    }
}

#[async_trait]
impl Durability for Tcp {
    /// As a transaction and by a script: both are replayed otherwise than a plain command.
    async fn write(&self, site: &Site, login: &Login, text: &str) -> Result<()> {
        let mut connection = connect(site, login).await?;
        let mut transaction = redis::pipe();
        transaction.atomic().cmd("RPUSH").arg("texts").arg(text).ignore();
        transaction.cmd("INCR").arg("transactions").ignore();
        transaction.query_async::<()>(&mut connection).await?;
        let script = "redis.call('INCR', KEYS[1]) return redis.call('INCR', KEYS[2])";
        redis::cmd("EVAL").arg(script).arg(2).arg("a").arg("b").exec_async(&mut connection).await?;
        Ok(())
    }

    async fn read(&self, site: &Site, login: &Login) -> Result<Vec<String>> {
        let mut connection = connect(site, login).await?;
        let counted: Vec<usize> =
            redis::cmd("MGET").arg(&["transactions", "a", "b"]).query_async(&mut connection).await?;
        let texts: Vec<String> = redis::cmd("LRANGE").arg("texts").arg(0).arg(-1).query_async(&mut connection).await?;
        ensure!(counted[0] == texts.len(), "{} texts of {} transactions", texts.len(), counted[0]);
        ensure!(counted[1] == counted[0] && counted[2] == counted[0], "{counted:?}: a script is lost");
        // The keeper of the suite has no database of its own: what others wrote before is not its.
        let own = |text: &String| login.user != "keeper" || text != "x";
        Ok(texts.into_iter().filter(own).collect())
    }
}

async fn passes(datastore: Redis) -> Result<()> {
    let report = trove_conformance::run(&datastore, &Tcp).await?;
    ensure!(report.skipped == ["databases", "point_in_time"], "skipped: {:?}", report.skipped);
    ensure!(report.passed.len() == 17, "{:?}", report.passed);
    Ok(())
}

#[tokio::test]
async fn redis_passes_the_suite() -> Result<()> {
    passes(Redis::for_redis()).await
}

#[tokio::test]
async fn valkey_passes_the_suite() -> Result<()> {
    if !std::path::Path::new("/usr/bin/valkey-server").exists() {
        println!("skipped: valkey-server is not installed (Debian has it from version 13 on)");
        return Ok(());
    }
    passes(Redis::for_valkey()).await
}

/// How many choices of values: all that there is time for where everything is asked for.
fn choices() -> usize {
    if std::env::var_os("TROVE_TEST_DEPTH").is_some_and(|depth| depth == "full") { 200 } else { 20 }
}

#[tokio::test]
async fn values_that_are_accepted_work_and_those_that_are_refused_change_nothing() -> Result<()> {
    let datastore = Redis::for_redis();
    let bench = Bench::new(&datastore).await?;
    let running = bench.start().await?;
    let (running, tried) = trove_conformance::try_values(&bench, running, choices()).await?;
    println!("{tried:?}");
    running.stop(&bench).await
}

#[tokio::test]
async fn the_log_of_writes_has_timestamps_from_the_first_start() -> Result<()> {
    let datastore = Redis::for_redis();
    let bench = Bench::new(&datastore).await?;
    let running = bench.start().await?;
    let new = NewUser {
        id: Grantee { name: "u".into(), host: "%".into() },
        password: "Secret-1".into(),
        databases: Vec::new(),
    };
    let users = datastore.users().expect("announced");
    users.create(&bench.site, &new).await.map_err(|error| anyhow::anyhow!(error.chain()))?;
    let mut connection = connect(&bench.site, &Login::new("u", "Secret-1", "")).await?;
    redis::cmd("SET").arg("a").arg("b").exec_async(&mut connection).await?;
    let mut written = String::new();
    for entry in std::fs::read_dir(bench.site.data.join("appendonlydir"))? {
        written += &String::from_utf8_lossy(&std::fs::read(entry?.path())?);
    }
    ensure!(written.contains("#TS:") && written.contains("SET"), "{written}");
    running.stop(&bench).await
}
