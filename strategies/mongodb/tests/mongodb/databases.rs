//! Databases that are empty, whose names differ in case, that a tenant made himself; and a volume that is full.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mongodb::bson::doc;
use trove_strategy::{Database, Datastore, Grantee, Kind, Settings, StartMode};

use crate::{
    MONGODB, as_root, await_that, bench, client, databases, insert, make_database, make_user, plain, run, users,
};

async fn listed(site: &trove_strategy::Site) -> Result<Vec<String>> {
    let all = databases().list(site).await.map_err(plain)?;
    Ok(all.into_iter().map(|database| database.name).collect())
}

#[tokio::test]
async fn databases_are_there_also_while_they_are_empty_and_no_longer() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let site = &bench.site;
    make_database(site, "Shop").await?;
    let taken = databases().create(site, &Database::named("shop")).await.err().context("two of one name")?;
    ensure!(taken.kind() == Kind::Invalid && taken.chain().contains("\"Shop\""), "{}", taken.chain());
    let mut other = Database::named("texts");
    other.character_set = Some("utf8".to_owned());
    let refused = databases().create(site, &other).await;
    ensure!(refused.is_err_and(|error| error.kind() == Kind::Invalid), "a character set was accepted");

    let app = make_user(site, "Shop.app", &["Shop"]).await?;
    let root = as_root(site).await?;
    run(&root, "theirs", insert("x")).await?;
    ensure!(listed(site).await? == ["Shop", "theirs"], "{:?}", listed(site).await?);
    // Killed at once: what was ordered is there.
    make_database(site, "empty").await?;
    running.kill()?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    ensure!(listed(site).await? == ["Shop", "empty", "theirs"], "{:?}", listed(site).await?);

    let id = Grantee::named("Shop.app");
    let grant = async |name: &str| databases().grant(site, &id, &[name.to_owned()]).await;
    grant("theirs").await.map_err(plain)?;
    run(&app, "theirs", doc! {"find": "t"}).await?;
    for (name, kind) in [("missing", Kind::Gone), ("admin", Kind::Invalid), ("Local", Kind::Invalid)] {
        let refused = grant(name).await;
        ensure!(refused.as_ref().is_err_and(|error| error.kind() == kind), "{name}: {refused:?}");
    }
    // Whoever was let into one that is gone is not in the next of that name.
    run(&app, "Shop", insert("old")).await?;
    databases().delete(site, "Shop").await.map_err(plain)?;
    ensure!(listed(site).await? == ["empty", "theirs"]);
    make_database(site, "Shop").await?;
    ensure!(run(&app, "Shop", doc! {"find": "t"}).await.is_err(), "a grant outlives its database");
    let app_now = users().get(site, &id).await.map_err(plain)?.context("app")?;
    ensure!(app_now.databases == ["theirs"], "{app_now:?}");
    running.stop(&bench).await
}

#[tokio::test]
async fn a_full_volume_can_be_read_and_emptied() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let (engine, site) = (MONGODB.engine(), &bench.site);
    make_database(site, "one").await?;
    let app = make_user(site, "one.app", &["one"]).await?;
    let root = as_root(site).await?;
    for tenant in [&app, &root] {
        run(tenant, "one", insert("before")).await?;
        run(tenant, "one", doc! {"insert": "other", "documents": [{"x": 1}]}).await?;
    }
    let mut full = Settings::default();
    full.read_only = true;
    bench.take_up(&full).await.map_err(plain)?;
    make_database(site, "late").await?;
    let late = make_user(site, "late.app", &["late"]).await?;
    for (tenant, database) in [(&app, "one"), (&root, "one"), (&late, "late"), (&root, "new")] {
        ensure!(run(tenant, database, insert("more")).await.is_err(), "{database} takes more");
        let index = doc! {"createIndexes": "t", "indexes": [{"key": {"x": 1}, "name": "x"}]};
        ensure!(run(tenant, database, index).await.is_err(), "{database} takes an index");
    }
    run(&app, "one", doc! {"find": "t"}).await?;
    run(&app, "one", doc! {"delete": "t", "deletes": [{"q": {}, "limit": 1}]}).await?;
    run(&app, "one", doc! {"drop": "other"}).await?;
    run(&root, "one", doc! {"drop": "t"}).await?;
    // It has room again while the server does not run: then nobody reloads anything.
    running.stop(&bench).await?;
    engine.configure(site, &Settings::default()).await.map_err(plain)?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    for (tenant, database) in [(&app, "one"), (&late, "late"), (&root, "new")] {
        run(tenant, database, insert("again")).await.with_context(|| format!("{database} takes nothing"))?;
    }
    running.stop(&bench).await
}

#[tokio::test]
async fn the_agent_comes_in_where_strangers_have_taken_all_connections() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let (engine, site) = (MONGODB.engine(), &bench.site);
    let running = bench.start().await?;
    let mut few = Settings::default();
    few.parameters = [("net.maxIncomingConnections".to_owned(), 10.into())].into();
    bench.take_up(&few).await.map_err(plain)?;
    running.stop(&bench).await?;
    let mut running = bench.spawn_with(StartMode::Normal, &few)?;
    bench.await_answer(&mut running).await?;
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.push(tokio::net::TcpStream::connect((site.address, site.port)).await?);
    }
    await_that("strangers are turned away", async || {
        let nobody = client(site, None)?;
        let asked = tokio::time::timeout(Duration::from_secs(1), run(&nobody, "admin", doc! {"hello": 1})).await;
        Ok(!matches!(asked, Ok(Ok(_))))
    })
    .await?;
    engine.probe(site).await.map_err(plain)?;
    make_database(site, "one").await?;
    drop(strangers);
    running.stop(&bench).await
}
