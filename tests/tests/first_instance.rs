//! The main use case: an instance is created, used, and deleted without a trace.

use anyhow::{Context, Result};
use serde_json::json;
use trove_tests::{Stack, connect, leftovers, rows};

#[tokio::test]
async fn an_order_becomes_a_database_that_can_be_used() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("first").await?;
    let view = api.instance(&id).await?;
    assert_eq!(view["datastore"]["type"], "postgresql");
    assert!(view["fault"].is_null(), "{view}");

    let client = connect(&view, "app", "secret-app-1", "app").await?;
    rows(&client, "create table t (n int); insert into t select generate_series(1, 1000)").await?;
    assert_eq!(rows(&client, "select count(*) from t").await?, ["1000"]);
    assert!(connect(&view, "app", "wrong", "app").await.is_err(), "a wrong password was accepted");
    assert!(connect(&view, "os_admin", "", "postgres").await.is_err(), "the agent's account was let in over TCP");

    let restart = api.post(&format!("/instances/{id}/action"), &json!({"restart": {}})).await?;
    assert_eq!(restart.status, 202, "{restart:?}");
    api.await_operations(&id).await?;
    let view = api.await_active(&id).await?;
    let client = connect(&view, "app", "secret-app-1", "app").await?;
    assert_eq!(rows(&client, "select count(*) from t").await?, ["1000"], "rows after a restart");

    let pids = leftovers::processes(&id);
    assert_eq!(leftovers::engines(&id).len(), 1, "one engine");
    assert_eq!(leftovers::agents(&id).len(), 1, "one agent");
    assert_eq!(api.delete(&format!("/instances/{id}")).await?.status, 202);
    api.await_gone(&id).await?;
    leftovers::assert_nothing_of(&id, &stack.host(&id), &pids)
}

#[tokio::test]
async fn accounts_do_what_they_say_in_the_database_itself() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("accounts").await?;
    let view = api.instance(&id).await?;
    let path = format!("/instances/{id}");

    let databases = json!({"databases": [{"name": "d 2"}, {"name": "d\"3"}]});
    let created = api.post(&format!("{path}/databases"), &databases).await?;
    assert_eq!(created.status, 202, "{created:?}");
    let user =
        json!({"users": [{"name": "o'neil \"x\"", "password": "pass word 'q'", "databases": [{"name": "d 2"}]}]});
    assert_eq!(api.post(&format!("{path}/users"), &user).await?.status, 202);
    let operations = api.await_operations(&id).await?;
    assert_eq!(operations[0]["status"], "done", "{operations}");

    let client = connect(&view, "o'neil \"x\"", "pass word 'q'", "d 2").await?;
    rows(&client, "create table mine (n int)").await?;
    let foreign = connect(&view, "o'neil \"x\"", "pass word 'q'", "app").await;
    assert!(foreign.is_err(), "entered a database of another");

    let enabled = api.post(&format!("{path}/root"), &json!({})).await?;
    assert_eq!(enabled.status, 200, "{enabled:?}");
    let password = enabled.body["user"]["password"].as_str().context("password")?;
    let root = connect(&view, "root", password, "postgres").await?;
    assert_eq!(rows(&root, "select rolsuper from pg_roles where rolname = 'root'").await?, ["t"]);
    assert_eq!(api.get(&format!("{path}/root")).await?.body["rootEnabled"], true);
    // Renaming must be refused, since a renamed superuser would survive root-disable.
    let rename = json!({"user": {"name": "hidden"}});
    let renamed = api.send(reqwest::Method::PUT, &format!("{path}/users/root"), Some(&rename)).await?;
    assert_eq!(renamed.status, 400, "{renamed:?}");
    assert_eq!(api.delete(&format!("{path}/users/root")).await?.status, 400);
    assert_eq!(api.delete(&format!("{path}/root")).await?.status, 204);
    api.await_operations(&id).await?;
    assert!(connect(&view, "root", password, "postgres").await.is_err(), "root came in after it was disabled");

    let encoded = "o%27neil%20%22x%22";
    assert_eq!(api.delete(&format!("{path}/users/{encoded}")).await?.status, 202);
    assert_eq!(api.delete(&format!("{path}/databases/d%203")).await?.status, 404);
    assert_eq!(api.delete(&format!("{path}/databases/d%222")).await?.status, 404);
    assert_eq!(api.delete(&format!("{path}/databases/d%223")).await?.status, 202);
    api.await_operations(&id).await?;
    let left = api.get(&format!("{path}/databases")).await?.body;
    assert_eq!(left["databases"], json!([{"name": "app"}, {"name": "d 2"}]));
    let users = api.get(&format!("{path}/users")).await?.body;
    assert_eq!(users["users"], json!([{"name": "app", "host": "%", "databases": [{"name": "app"}]}]));
    Ok(())
}
