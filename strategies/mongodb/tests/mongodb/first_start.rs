//! Until the agent's account is there, the server makes one for whoever asks from the same machine.

use std::time::Duration;

use anyhow::{Result, ensure};
use mongodb::bson::doc;
use trove_strategy::{Datastore, Directory, File, FirstStart, Kind, Owner, Settings, StartMode};

use crate::{MONGODB, admin, bench, client, plain, run};

/// What a stranger on the same machine tries.
fn seize() -> mongodb::bson::Document {
    doc! {"createUser": "stranger", "pwd": "stranger", "roles": [{"role": "root", "db": "admin"}]}
}

#[tokio::test]
async fn nobody_can_make_an_account_over_tcp_at_any_stage() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let (engine, site) = (MONGODB.engine(), &bench.site);
    let refused = async |stage: &str| {
        let made = run(&client(site, None)?, "admin", seize()).await;
        ensure!(made.is_err(), "a stranger made an account {stage}");
        Ok(())
    };
    ensure!(engine.initialise(site).await.map_err(plain)? == FirstStart::Private);
    engine.configure(site, &Settings::default()).await.map_err(plain)?;
    // Were the first start not private after all, the door would be shut as well.
    let mut running = bench.spawn(StartMode::Normal)?;
    tokio::time::timeout(Duration::from_secs(20), async {
        while tokio::net::TcpStream::connect((site.address, site.port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await?;
    refused("on a server that has no account and listens").await?;
    let probed = engine.probe(site).await;
    ensure!(probed.is_err_and(|error| error.kind() == Kind::Transient), "such a server is taken for well");
    running.kill()?;

    engine.forget_earlier_life(site).await.map_err(plain)?;
    running = bench.spawn(StartMode::Private)?;
    bench.await_answer(&mut running).await?;
    refused("before the first one").await?;
    engine.secure(site).await.map_err(plain)?;
    refused("after the first one").await?;
    ensure!(engine.initialise(site).await.map_err(plain)? == FirstStart::Normal);
    running.stop(&bench).await?;

    running = bench.spawn(StartMode::Normal)?;
    while tokio::net::TcpStream::connect((site.address, site.port)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    refused("before the server is a set").await?;
    bench.await_answer(&mut running).await?;
    refused("on a server that serves").await?;
    let known = run(&admin(&bench)?, "admin", doc! {"usersInfo": {"forAllDBs": true}}).await?;
    ensure!(known.get_array("users")?.len() == 1, "{known}");
    running.stop(&bench).await
}

#[tokio::test]
async fn a_kill_between_any_two_steps_is_made_good_by_the_next_call() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let (engine, site) = (MONGODB.engine(), &bench.site);
    for millis in [5, 60, 200] {
        engine.initialise(site).await.map_err(plain)?;
        engine.configure(site, &Settings::default()).await.map_err(plain)?;
        engine.forget_earlier_life(site).await.map_err(plain)?;
        let mut running = bench.spawn(StartMode::Private)?;
        if millis > 5 {
            bench.await_answer(&mut running).await?;
        }
        let _ = tokio::time::timeout(Duration::from_millis(millis), engine.secure(site)).await;
        running.kill()?;
    }
    // The account was made, and nobody wrote down that it was.
    let mut running = bench.start().await?;
    running.kill()?;
    let at = Directory::Data.join("unsecured");
    site.host.write(File { at, contents: Vec::new(), mode: 0o600, owner: Owner::Engine }).await?;
    running = bench.spawn(StartMode::Private)?;
    bench.await_answer(&mut running).await?;
    for _ in 0..2 {
        engine.secure(site).await.map_err(plain)?;
    }
    running.kill()?;
    // Killed while it becomes a set, and before.
    for millis in [300, 900] {
        running = bench.spawn(StartMode::Normal)?;
        let _ = tokio::time::timeout(Duration::from_millis(millis), bench.await_answer(&mut running)).await;
        running.kill()?;
    }
    running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    let health = engine.probe(site).await.map_err(plain)?;
    ensure!(health.position.is_some(), "{health:?}");
    running.stop(&bench).await
}
