//! Resizing, and the management calls of operators, with a real engine.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use trove_tests::{Api, Stack, connect, leftovers, poll, rows};

/// Value of a parameter in the engine.
async fn setting(api: &Api, id: &str, name: &str) -> Result<String> {
    let view = api.await_active(id).await?;
    let client = connect(&view, "app", "secret-app-1", "app").await?;
    Ok(rows(&client, &format!("show {name}")).await?.concat())
}

async fn act(api: &Api, path: &str, body: Value) -> Result<()> {
    let answer = api.post(&format!("{path}/action"), &body).await?;
    ensure!(answer.status == 202, "{body}: {answer:?}");
    Ok(())
}

async fn await_service(api: &Api, id: &str, word: &str) -> Result<Value> {
    // The engine is as it is to be before the operation that made it so has ended.
    api.await_operations(id).await?;
    let done = |view: &Value| view["status"] == "ACTIVE" && view["operating_status"] == word;
    poll(&format!("ACTIVE and {word}"), Duration::from_secs(90), async || api.instance(id).await, done).await
}

#[tokio::test]
async fn another_flavor_is_another_size_of_the_engine_and_its_data_stay() -> Result<()> {
    let stack = Stack::start().await?;
    let (api, admin) = (stack.login("trove").await?, stack.login("trove-admin").await?);
    let id = api.order_and_await("grows").await?;
    let path = format!("/instances/{id}");
    let small = setting(&api, &id, "shared_buffers").await?;
    let client = connect(&api.instance(&id).await?, "app", "secret-app-1", "app").await?;
    rows(&client, "create table kept as select 7 as n").await?;
    drop(client);
    act(&api, &path, json!({"resize": {"flavorRef": "3"}})).await?;
    ensure!(api.instance(&id).await?["status"] == "RESIZE");
    let again = api.post(&format!("{path}/action"), &json!({"resize": {"flavorRef": "1"}})).await?;
    assert_eq!(again.status, 422, "{again:?}");
    let view = api.await_active(&id).await?;
    assert_eq!(view["flavor"]["id"], "3", "{view}");
    assert_ne!(setting(&api, &id, "shared_buffers").await?, small);
    let client = connect(&view, "app", "secret-app-1", "app").await?;
    assert_eq!(rows(&client, "select n from kept").await?, ["7"]);

    act(&api, &path, json!({"resize": {"volume": {"size": 4}}})).await?;
    let view = api.await_active(&id).await?;
    assert_eq!(view["volume"]["size"], 4, "{view}");
    assert_eq!(rows(&client, "select n from kept").await?, ["7"], "the connection lived through it");
    let quotas = api.get(&format!("/mgmt/quotas/{}", admin_project(&admin, &id).await?)).await?.body;
    let used = |name: &str| {
        let all = quotas["quotas"].as_array().cloned().unwrap_or_default();
        all.iter().find(|quota| quota["resource"] == name).map(|quota| quota["in_use"].clone())
    };
    assert_eq!((used("ram"), used("volumes")), (Some(json!(2048)), Some(json!(4))), "{quotas}");
    Ok(())
}

async fn admin_project(admin: &Api, id: &str) -> Result<String> {
    let view = admin.get(&format!("/mgmt/instances/{id}")).await?.body;
    Ok(view["instance"]["tenant_id"].as_str().context("tenant_id")?.to_owned())
}

#[tokio::test]
async fn a_stopped_database_stays_so_until_it_is_restarted() -> Result<()> {
    let stack = Stack::start().await?;
    let (api, admin) = (stack.login("trove").await?, stack.login("trove-admin").await?);
    let id = api.order_and_await("stops").await?;
    let path = format!("/mgmt/instances/{id}");
    assert_eq!(api.post(&format!("{path}/action"), &json!({"stop": {}})).await?.status, 401, "for operators");
    for wrong in [json!({}), json!({"stop": {}, "reboot": {}}), json!({"explode": {}}), json!(5)] {
        assert_eq!(admin.post(&format!("{path}/action"), &wrong).await?.status, 400, "{wrong}");
    }
    act(&admin, &path, json!({"stop": {}})).await?;
    await_service(&api, &id, "SHUTDOWN").await?;
    ensure!(leftovers::engines(&id).is_empty(), "an engine runs");
    // The engine stays stopped after restarts of its agent and host.
    for agent in leftovers::agents(&id) {
        kill(Pid::from_raw(agent), Signal::SIGKILL)?;
    }
    act(&admin, &path, json!({"reboot": {}})).await?;
    await_service(&api, &id, "SHUTDOWN").await?;
    ensure!(leftovers::engines(&id).is_empty(), "an engine runs");
    act(&api, &format!("/instances/{id}"), json!({"resize": {"flavorRef": "2"}})).await?;
    await_service(&api, &id, "SHUTDOWN").await?;
    ensure!(leftovers::engines(&id).is_empty(), "an engine runs");
    act(&api, &format!("/instances/{id}"), json!({"restart": {}})).await?;
    api.await_active(&id).await?;
    assert_eq!(leftovers::engines(&id).len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_reboot_is_another_life_of_agent_and_engine() -> Result<()> {
    let stack = Stack::start().await?;
    let (api, admin) = (stack.login("trove").await?, stack.login("trove-admin").await?);
    let id = api.order_and_await("reboots").await?;
    let before = (leftovers::agents(&id), leftovers::engines(&id));
    act(&admin, &format!("/mgmt/instances/{id}"), json!({"reboot": {}})).await?;
    api.await_active(&id).await?;
    let after = (leftovers::agents(&id), leftovers::engines(&id));
    ensure!(after.0.len() == 1 && after.1.len() == 1 && after.0 != before.0 && after.1 != before.1, "{after:?}");
    // A rebuild is one from an image, which stands for an engine here.
    let versions = admin.get("/mgmt/datastore-versions").await?.body;
    let image = versions["versions"][0]["image"].clone();
    act(&admin, &format!("/mgmt/instances/{id}"), json!({"rebuild": {"image_id": image}})).await?;
    api.await_operations(&id).await?;
    ensure!(api.await_active(&id).await?["fault"].is_null());
    ensure!(leftovers::agents(&id) != after.0 && leftovers::engines(&id) != after.1, "it lives on");
    let wrong = admin.post(&format!("/mgmt/instances/{id}/action"), &json!({"rebuild": {"image_id": id}})).await?;
    ensure!(wrong.status == 400 && wrong.message().contains("rebuild.image_id"), "{wrong:?}");

    let of = format!("/mgmt/instances/{id}");
    assert_eq!(admin.get(&format!("{of}/rpc_ping")).await?.status, 204);
    let figures = admin.get(&format!("{of}/diagnostics")).await?.body["diagnostics"].clone();
    let number = |name: &str| figures[name].as_u64().unwrap_or_default();
    ensure!(number("threads") > 0 && number("fdSize") > 3, "{figures}");
    ensure!(
        number("vmRss") > 1000 && number("vmHwm") >= number("vmRss") && number("vmPeak") >= number("vmSize"),
        "{figures}"
    );
    let hardware = admin.get(&format!("{of}/hwinfo")).await?.body["hwinfo"].clone();
    assert_eq!(hardware, json!({"mem_total": 512, "num_cpus": 1}));

    let history = async || Ok(admin.get(&format!("/mgmt/instances/{id}/root")).await?.body["root_history"].clone());
    assert_eq!(history().await?["enabled"], "Never");
    assert_eq!(api.post(&format!("/instances/{id}/root"), &json!({})).await?.status, 200);
    assert_eq!(api.delete(&format!("/instances/{id}/root")).await?.status, 204);
    let said: Result<Value> = history().await;
    let said = said?;
    ensure!(said["enabled"] != "Never" && said["user"] != "Nobody", "{said}");
    Ok(())
}
