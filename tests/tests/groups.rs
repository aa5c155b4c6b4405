//! What becomes of a group's values where an instance is stopped, and where an engine refuses them or does not start with
//! them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use trove_tests::{APP, Api, Engine, MariaDb, Stack, poll};

const ROOT: &str = "Root-secret-1";

async fn order(api: &Api, engine: Engine, name: &str) -> Result<String> {
    api.create(&engine.order(name)).await
}

async fn group(api: &Api, engine: Engine, values: &Value) -> Result<String> {
    let group = json!({"name": "g", "datastore": {"type": engine.datastore()}, "values": values});
    let made = api.post("/configurations", &json!({"configuration": group})).await?;
    Ok(made.body["configuration"]["id"].as_str().with_context(|| format!("{made:?}"))?.to_owned())
}

async fn change(api: &Api, group: &str, values: &Value) -> Result<()> {
    let body = json!({"configuration": {"values": values}});
    let changed = api.send(Method::PATCH, &format!("/configurations/{group}"), Some(&body)).await?;
    ensure!(changed.status == 200, "{changed:?}");
    Ok(())
}

async fn attach(api: &Api, id: &str, group: &str) -> Result<()> {
    let body = json!({"instance": {"configuration": group}});
    let attached = api.send(Method::PUT, &format!("/instances/{id}"), Some(&body)).await?;
    ensure!(attached.status == 202, "{attached:?}");
    ensure!(last(api, id).await?["status"] == "done");
    Ok(())
}

/// The newest operation, once all have ended.
async fn last(api: &Api, id: &str) -> Result<Value> {
    Ok(api.await_operations(id).await?[0].clone())
}

async fn restart(api: &Api, id: &str) -> Result<()> {
    let accepted = api.post(&format!("/instances/{id}/action"), &json!({"restart": {}})).await?;
    ensure!(accepted.status == 202, "{accepted:?}");
    let ended = last(api, id).await?;
    ensure!(ended["status"] == "done", "{ended}");
    Ok(())
}

/// What became of each parameter: its state and the reason.
async fn became(api: &Api, id: &str) -> Result<BTreeMap<String, (String, String)>> {
    let said = api.get(&format!("/instances/{id}/parameters")).await?.body;
    let all = said["parameters"].as_array().with_context(|| said.to_string())?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(all.iter().map(|one| (text(&one["name"]), (text(&one["state"]), text(&one["reason"])))).collect())
}

/// The table of this parameter has to be there.
const WORDS: &str = "innodb_ft_server_stopword_table";

#[tokio::test(flavor = "multi_thread")]
async fn each_instance_of_a_group_takes_what_its_engine_takes_and_a_stopped_one_at_its_start() -> Result<()> {
    let engine = Engine::MariaDb;
    let stack = Stack::of(engine).await?;
    let (api, admin) = (stack.login("trove").await?, stack.login("trove-admin").await?);
    let group = group(&api, engine, &json!({"max_connect_errors": 55})).await?;
    let ids = [
        order(&api, engine, "takes").await?,
        order(&api, engine, "refuses").await?,
        order(&api, engine, "stopped").await?,
    ];
    for id in &ids {
        api.await_active(id).await?;
        attach(&api, id, &group).await?;
    }
    let [takes, refuses, stopped] = ids.each_ref().map(String::as_str);
    for id in [takes, stopped] {
        let table = "create table app.words (value varchar(30)) engine = innodb";
        MariaDb::plain(&api.instance(id).await?)?.run(APP.0, APP.1, table)?;
    }
    let stop = admin.post(&format!("/mgmt/instances/{stopped}/action"), &json!({"stop": {}})).await?;
    ensure!(stop.status == 202, "{stop:?}");
    last(&api, stopped).await?;

    change(&api, &group, &json!({"max_connect_errors": 66, WORDS: "app/words"})).await?;
    let (of_takes, of_refuses) = (last(&api, takes).await?, last(&api, refuses).await?);
    ensure!(of_takes["status"] == "done", "{of_takes}");
    ensure!(of_refuses["status"] == "failed" && of_refuses["error"].to_string().contains(WORDS), "{of_refuses}");
    let of_stopped = last(&api, stopped).await?;
    ensure!(of_stopped["kind"] == "apply_configuration" && of_stopped["status"] == "done", "{of_stopped}");

    let state = |name: &str, all: &BTreeMap<String, (String, String)>| all.get(name).cloned().unwrap_or_default();
    let live = ("live".to_owned(), String::new());
    let all = became(&api, takes).await?;
    ensure!(state("max_connect_errors", &all) == live && state(WORDS, &all) == live, "{all:?}");
    let all = became(&api, refuses).await?;
    let (refused, reason) = state(WORDS, &all);
    ensure!(state("max_connect_errors", &all) == live && refused == "refused", "{all:?}");
    ensure!(reason.contains("app/words"), "the engine's words: {reason}");
    let all = became(&api, stopped).await?;
    ensure!(all.values().all(|(state, _)| state == "needs_restart"), "{all:?}");

    let inside = async |id: &str| {
        let asked = format!("select @@global.max_connect_errors, coalesce(@@global.{WORDS}, '')");
        MariaDb::plain(&api.instance(id).await?)?.run(APP.0, APP.1, &asked)
    };
    assert_eq!(inside(takes).await?, "66\tapp/words");
    assert_eq!(inside(refuses).await?, "66");
    ensure!(inside(stopped).await.is_err(), "it is not stopped");
    restart(&api, stopped).await?;
    let view = api.await_active(stopped).await?;
    assert_eq!(inside(stopped).await?, "66\tapp/words");
    ensure!(view["fault"].is_null(), "{view}");
    let all = became(&api, stopped).await?;
    ensure!(all.values().all(|became| *became == live), "{all:?}");
    Ok(())
}

/// The server keeps five connections for superusers, and starts with more than these only.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_with_which_the_engine_does_not_start_is_taken_back_and_the_instance_says_so() -> Result<()> {
    let engine = Engine::PostgreSql;
    let stack = Stack::of(engine).await?;
    let api = stack.login("trove").await?;
    let id = order(&api, engine, "taken-back").await?;
    let view = api.await_active(&id).await?;
    let root = api.post(&format!("/instances/{id}/root"), &json!({"password": ROOT})).await?;
    ensure!(root.status == 200, "{root:?}");
    api.await_operations(&id).await?;
    let inside = async |name: &str| engine.value_of(&view, ROOT, name).await;
    let before = inside("max_connections").await?;
    engine.write(&view, "kept").await?;

    let group = group(&api, engine, &json!({"max_connections": 4, "deadlock_timeout": 777})).await?;
    attach(&api, &id, &group).await?;
    ensure!(api.instance(&id).await?["status"] == "RESTART_REQUIRED");
    assert_eq!(inside("deadlock_timeout").await?, "777ms");
    restart(&api, &id).await?;
    let view = api.await_active(&id).await?;
    let said = view["fault"]["message"].as_str().unwrap_or_default();
    ensure!(said.contains("max_connections") && said.contains("superuser_reserved_connections"), "{view}");
    assert_eq!((inside("max_connections").await?, inside("deadlock_timeout").await?), (before, "777ms".to_owned()));
    assert_eq!(engine.read(&view).await?, ["kept"]);
    let all = became(&api, &id).await?;
    let (state, reason) = all.get("max_connections").cloned().unwrap_or_default();
    ensure!(state == "refused" && reason.contains("superuser_reserved_connections"), "{all:?}");
    ensure!(all.get("deadlock_timeout").is_some_and(|(state, _)| state == "live"), "{all:?}");

    change(&api, &group, &json!({"max_connections": 40})).await?;
    ensure!(last(&api, &id).await?["status"] == "done");
    restart(&api, &id).await?;
    let no_fault = |view: &Value| view["fault"].is_null() && view["status"] == "ACTIVE";
    poll("no fault", Duration::from_secs(30), async || api.instance(&id).await, no_fault).await?;
    assert_eq!(inside("max_connections").await?, "40");
    Ok(())
}
