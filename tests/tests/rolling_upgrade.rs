//! A rolling upgrade: controllers of two versions on one store. The older one is this program with one kind of
//! operation disabled; the schema of the newer one is this schema with additions.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use trove_tests::{Api, Database, Failpoints, Stack, StackOptions, connect, poll, rows};

const SOON: Duration = Duration::from_secs(60);
/// The kind of operation that the older controller does not know.
const NEW_KIND: &str = "resize_volume";

fn options(database: &Database) -> StackOptions {
    let config = "[operations]\nlease = \"3s\"\n".to_owned();
    StackOptions { config, shared: Some(database.shared()), ..StackOptions::default() }
}

fn armed(entry: String) -> Failpoints {
    Failpoints { controller: Some(entry), agent: None }
}

async fn grow(api: &Api, id: &str) -> Result<()> {
    let answer = api.post(&format!("/instances/{id}/action"), &json!({"resize": {"volume": {"size": 2}}})).await?;
    ensure!(answer.status == 202, "{answer:?}");
    Ok(())
}

/// The operation of the new kind, from the API.
async fn shown(api: &Api, id: &str) -> Result<Value> {
    let all = api.get(&format!("/instances/{id}/operations")).await?.body["operations"].clone();
    Ok(all
        .as_array()
        .into_iter()
        .flatten()
        .find(|operation| operation["kind"] == NEW_KIND)
        .cloned()
        .unwrap_or_default())
}

#[tokio::test]
async fn an_older_controller_leaves_what_it_does_not_know_to_a_newer_one() -> Result<()> {
    let database = Database::start()?;
    let mut new = Stack::start_with(options(&database)).await?;
    let api = new.login("trove").await?;
    let (queued, begun) = (api.order_and_await("queued").await?, api.order_and_await("begun").await?);
    let mut old = Stack::prepare(options(&database))?;
    old.run(&armed(format!("operation.{NEW_KIND}.known=fail")))?;
    let older = old.login_as_known_to(&new, "trove").await?;

    // The newer controller begins one of the operations and is killed; the other was requested while it was down.
    new.kill()?;
    new.run(&armed(format!("operation.{NEW_KIND}.grow_volume.before=kill")))?;
    grow(&api, &begun).await?;
    new.await_death(SOON).await?;
    grow(&older, &queued).await?;

    // After the end of the lease, the older controller, which is running, still leaves both alone and shows them.
    let store = database.connect().await?;
    let held = "select count(*) from operation where kind = 'resize_volume' and finished is null and lease_until > \
                (extract(epoch from now()) * 1000000)::bigint";
    poll("the end of the lease", SOON, async || rows(&store, held).await, |rows| rows[0] == "0").await?;
    let facts = "select string_agg(id || status || coalesce(owner, '') || fence, ',' order by seq) from operation \
                 where kind = 'resize_volume'";
    let before = rows(&store, facts).await?;
    let other = older.order_and_await("meanwhile").await?;
    let restarted = older.post(&format!("/instances/{other}/action"), &json!({"restart": {}})).await?;
    ensure!(restarted.status == 202, "{restarted:?}");
    older.await_operations(&other).await?;
    let databases = json!({"databases": [{"name": "more"}]});
    let created = older.post(&format!("/instances/{other}/databases"), &databases).await?;
    ensure!(created.status == 202, "{created:?}");
    older.await_operations(&other).await?;
    ensure!(rows(&store, facts).await? == before, "{before:?}, then {:?}", rows(&store, facts).await?);
    for id in [&queued, &begun] {
        let operation = shown(&older, id).await?;
        ensure!(operation["status"] != "done" && operation["steps"][0]["name"] == "grow_volume", "{operation}");
        ensure!(older.instance(id).await?["status"] == "RESIZE", "{}", older.instance(id).await?);
    }

    new.run(&Failpoints::default())?;
    for id in [&queued, &begun] {
        let done = async || shown(&older, id).await;
        poll("the newer one to do it", SOON, done, |operation| operation["status"] == "done").await?;
        let view = older.await_active(id).await?;
        ensure!(view["volume"]["size"] == 2, "{view}");
        connect(&view, "app", "secret-app-1", "app").await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_older_controller_works_on_the_schema_of_a_newer_one() -> Result<()> {
    let database = Database::start()?;
    let mut old = Stack::start_with(options(&database)).await?;
    let api = old.login("trove").await?;
    let id = api.order_and_await("before").await?;
    let store = database.connect().await?;
    // Additions as by migrations of a newer controller.
    rows(
        &store,
        "do $$ declare t text; begin \
         for t in select tablename from pg_tables where schemaname = 'public' and tablename <> '_sqlx_migrations' loop \
         execute format('alter table %I add column from_the_future text not null default $t$new$t$', t); \
         end loop; end $$; \
         create table from_the_future (id text primary key); \
         insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
         values (9999, 'from the future', true, '\\x00', 0)",
    )
    .await?;
    let serves = async |api: &Api, name: &str| -> Result<()> {
        let new = api.order_and_await(name).await?;
        let restarted = api.post(&format!("/instances/{id}/action"), &json!({"restart": {}})).await?;
        ensure!(restarted.status == 202, "{restarted:?}");
        let operations = api.await_operations(&id).await?;
        ensure!(operations[0]["status"] == "done", "{operations}");
        let view = api.await_active(&id).await?;
        connect(&view, "app", "secret-app-1", "app").await?;
        ensure!(api.delete(&format!("/instances/{new}")).await?.status == 202);
        api.await_gone(&new).await
    };
    serves(&api, "while it runs").await?;
    old.kill_and_run()?;
    serves(&api, "after its start").await
}
