//! An agent's account or a set that was spoilt, by whom ever.

use anyhow::{Context, Result, ensure};
use mongodb::bson::doc;
use trove_strategy::{Datastore, Kind, Settings, StartMode};

use crate::{MONGODB, admin, bench, plain, run};

#[tokio::test]
async fn an_account_of_the_agents_that_was_spoilt_is_restored() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let (engine, site) = (MONGODB.engine(), &bench.site);
    let mut running = bench.start().await?;
    let second = doc! {"createUser": "second", "pwd": "x", "roles": ["root"]};
    run(&admin(&bench)?, "admin", second).await?;
    for (spoil, what) in [
        (doc! {"dropUser": "os_admin"}, "it was gone"),
        (doc! {"updateUser": "os_admin", "pwd": "another"}, "it had another password"),
        (doc! {"updateUser": "os_admin", "roles": ["clusterMonitor"]}, "it had lost rights"),
    ] {
        let by = crate::client(site, Some(("second", "x")))?;
        run(&by, "admin", spoil).await?;
        // A connection that is kept would not notice another password.
        running.stop(&bench).await?;
        running = bench.spawn(StartMode::Normal)?;
        let mut locked_out = Ok(());
        crate::await_that("the agent is shut out", async || {
            locked_out = engine.probe(site).await.map(drop);
            Ok(locked_out.as_ref().is_err_and(|error| error.kind() == Kind::LockedOut))
        })
        .await?;
        running.stop(&bench).await?;
        let mended = engine.repair(site).await.map_err(plain)?.context("nothing was mended")?;
        ensure!(mended.contains(what), "{mended}");
        ensure!(engine.repair(site).await.map_err(plain)?.is_none(), "it is mended again");
        running = bench.spawn(StartMode::Normal)?;
        bench.await_answer(&mut running).await?;
    }
    running.stop(&bench).await
}

#[tokio::test]
async fn a_server_that_has_another_address_by_now_is_a_member_under_that() -> Result<()> {
    let Some(mut bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    running.stop(&bench).await?;
    // As after a restore in another place.
    bench.site.address = std::net::Ipv4Addr::new(127, 31, rand::random(), rand::random_range(1..=254)).into();
    bench.renew_certificate().await?;
    MONGODB.engine().configure(&bench.site, &Settings::default()).await.map_err(plain)?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    let config = run(&admin(&bench)?, "admin", doc! {"replSetGetConfig": 1}).await?;
    let members = config.get_document("config")?.get_array("members")?;
    let host = members[0].as_document().context("a member")?.get_str("host")?;
    ensure!(host == format!("{}:27017", bench.site.address), "{config}");
    running.stop(&bench).await
}
