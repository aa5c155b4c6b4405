//! Connections that do nothing, scripts that do not end: the agent is there all the while, or says why not.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use trove_conformance::Bench;
use trove_redis::Redis;
use trove_strategy::{Datastore, Kind, StartMode};

use crate::{REDIS, await_that, cli, make_user, plain, settings};

/// How many of these the server has not closed.
fn open(connections: &mut [TcpStream]) -> usize {
    let is_open = |connection: &mut TcpStream| loop {
        match connection.read(&mut [0; 256]) {
            Ok(0) => return false,
            // What the server said when it refused.
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    };
    connections.iter_mut().map(is_open).filter(|open| *open).count()
}

fn strangers(bench: &Bench<'_>, count: usize) -> Result<Vec<TcpStream>> {
    let mut connections = Vec::new();
    for _ in 0..count {
        let connection = TcpStream::connect((bench.site.address, bench.site.port))?;
        connection.set_nonblocking(true)?;
        connections.push(connection);
    }
    Ok(connections)
}

#[tokio::test]
async fn idle_strangers_take_neither_the_agents_connection_nor_for_long_those_of_tenants() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    let engine = REDIS.engine();
    bench.take_up(&settings(&[("maxclients", 60.into())])).await.map_err(plain)?;
    let app = || cli(&bench, Some(("app", "Secret-1"))).run(&["PING"]);

    // A tenant's connection that is idle too, in the words of the protocol.
    let mut tenant = TcpStream::connect((bench.site.address, bench.site.port))?;
    std::io::Write::write_all(&mut tenant, b"AUTH app Secret-1\r\n")?;
    let mut said = [0; 5];
    tenant.read_exact(&mut said)?;
    ensure!(&said == b"+OK\r\n");
    let mut all = strangers(&bench, 100)?;
    let begun = Instant::now();
    await_that("every connection is taken", async || Ok(app()?.contains("max number of clients"))).await?;
    // The agent that has been there goes on; one that comes now says why it cannot.
    engine.probe(&bench.site).await.map_err(plain)?;
    make_user(&bench, "other", "Secret-1").await?;
    let error = Redis::for_redis().engine().probe(&bench.site).await.err();
    let said = error.as_ref().map(trove_strategy::EngineError::chain).unwrap_or_default();
    ensure!(said.contains("max number of clients"), "{said}");
    ensure!(error.is_some_and(|error| error.kind() == Kind::Transient));

    await_that("room for a tenant", async || {
        engine.probe(&bench.site).await.map_err(plain)?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(app()? == "PONG")
    })
    .await?;
    println!("room after {:?}", begun.elapsed());
    ensure!(begun.elapsed() >= Duration::from_secs(9), "they had no time to log in");
    let left = open(&mut all);
    ensure!(left == 0, "{left} are left");
    std::io::Write::write_all(&mut tenant, b"PING\r\n")?;
    let mut said = [0; 7];
    tenant.read_exact(&mut said)?;
    ensure!(&said == b"+PONG\r\n", "the tenant's idle connection was closed");
    Redis::for_redis().engine().probe(&bench.site).await.map_err(plain)?;

    // While there is room nobody is closed.
    let mut few = strangers(&bench, 20)?;
    tokio::time::sleep(Duration::from_secs(11)).await;
    engine.probe(&bench.site).await.map_err(plain)?;
    ensure!(open(&mut few) == 20, "{} of 20", open(&mut few));
    running.stop(&bench).await
}

#[tokio::test]
async fn a_script_without_end_is_named_and_its_end_costs_no_data() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    let app = cli(&bench, Some(("app", "Secret-1")));
    ensure!(app.run(&["SET", "kept", "yes"])? == "OK");
    let mut endless = std::process::Command::new("redis-cli")
        .args(["--no-auth-warning", "-h", &bench.site.address.to_string(), "--user", "app"])
        .args(["EVAL", "redis.call('SET', 'x', '1') while true do end", "0"])
        .env("REDISCLI_AUTH", "Secret-1")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()?;
    let mut said = std::collections::BTreeSet::new();
    await_that("it is named", async || {
        let Err(error) = REDIS.engine().probe(&bench.site).await else { return Ok(false) };
        ensure!(error.kind() == Kind::Transient, "{}", error.chain());
        said.insert(error.chain());
        Ok(error.chain().contains("BUSY"))
    })
    .await?;
    println!("{said:#?}");
    running.kill()?;
    endless.wait()?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    assert_eq!(app.run(&["GET", "kept"])?, "yes");
    running.stop(&bench).await
}
