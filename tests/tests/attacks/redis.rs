//! Attacks by a tenant with root of Redis, and resizing to a flavor that is too small, through the whole service.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use trove_tests::{APP, Api, Engine, Redis, Stack, has_root_or_skips};

async fn order(api: &Api, name: &str, flavor: &str) -> Result<String> {
    let mut body = Engine::Redis.order(name);
    body["instance"]["flavorRef"] = json!(flavor);
    let id = api.create(&body).await?;
    api.await_active(&id).await?;
    Ok(id)
}

#[tokio::test]
async fn root_turns_its_engine_neither_against_the_host_nor_against_the_agent() -> Result<()> {
    if !has_root_or_skips("only root runs a service that hands out root of an engine") {
        return Ok(());
    }
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = order(&api, "turned", "1").await?;
    let redis = Redis::plain(&api.instance(&id).await?)?;
    redis.run(APP.0, APP.1, &["SET", "kept", "yes"])?;
    let enabled = api.post(&format!("/instances/{id}/root"), &json!({})).await?;
    let password = enabled.body["user"]["password"].as_str().with_context(|| format!("{enabled:?}"))?;
    for words in [
        &["CONFIG", "SET", "port", "7777"] as &[&str],
        &["CONFIG", "SET", "bind", "0.0.0.0"],
        &["CONFIG", "SET", "tls-port", "7777"],
        &["CONFIG", "REWRITE"],
        &["ACL", "SETUSER", "os_admin", "off"],
        &["ACL", "SETUSER", "default", "+@all"],
        &["ACL", "LOAD"],
        &["MODULE", "LOAD", "/tmp/none.so"],
        &["REPLICAOF", "127.0.0.1", "1"],
        &["SLAVEOF", "127.0.0.1", "1"],
        &["DEBUG", "SLEEP", "60"],
        &["DEBUG", "SEGFAULT"],
        &["SHUTDOWN", "NOSAVE"],
        &["FAILOVER"],
        &["MIGRATE", "127.0.0.1", "1", "kept", "0", "1"],
        &["CLUSTER", "MEET", "127.0.0.1", "1"],
        &["CLIENT", "PAUSE", "100000000"],
        &["CLIENT", "KILL", "TYPE", "normal"],
        &["EVAL", "return redis.call('CONFIG', 'SET', 'port', '7777')", "0"],
    ] {
        let refused = redis.run("default", password, words).err().with_context(|| format!("{words:?} is done"))?;
        let said = refused.to_string();
        ensure!(said.contains("NOPERM") || said.contains("not allowed"), "{said}");
        let view = api.instance(&id).await?;
        ensure!(view["operating_status"] == "HEALTHY", "after {words:?}: {view}");
    }
    let restarted = api.post(&format!("/instances/{id}/action"), &json!({"restart": {}})).await?;
    ensure!(restarted.status == 202, "{restarted:?}");
    let ended = api.await_operations(&id).await?;
    ensure!(ended[0]["status"] == "done", "{ended}");
    let view = api.await_active(&id).await?;
    assert_eq!(Redis::plain(&view)?.run(APP.0, APP.1, &["GET", "kept"])?, "yes");
    Ok(())
}

#[tokio::test]
async fn a_flavor_without_room_for_the_data_is_refused_with_the_figures() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = order(&api, "full", "2").await?;
    let redis = Redis::plain(&api.instance(&id).await?)?;
    // 350 MiB. A Redis with 512 MiB of memory may use 307 MiB for data.
    redis.run(APP.0, APP.1, &["SETRANGE", "large", &((350 << 20) - 1).to_string(), "x"])?;
    let before = api.instance(&id).await?;
    let smaller = json!({"resize": {"flavorRef": "1"}});
    let refused = api.post(&format!("/instances/{id}/action"), &smaller).await?;
    let said = refused.message();
    ensure!(refused.status == 422 && said.contains("307 MiB") && said.contains("512 MiB"), "{refused:?}");
    let after = api.instance(&id).await?;
    for field in ["status", "operating_status", "flavor", "fault"] {
        ensure!(after[field] == before[field], "{field}: {before}, then {after}");
    }
    assert_eq!(redis.run(APP.0, APP.1, &["GETRANGE", "large", "-1", "-1"])?, "x");
    // A backup is a thousand times shorter, and is not restored to that flavor either.
    let backup = api.back_up(&id, "full").await?;
    let backup = api.await_backup(&backup).await?;
    ensure!(backup["status"] == "COMPLETED", "{backup}");
    let mut small = json!({"instance": {"name": "small", "flavorRef": "1", "volume": {"size": 1}}});
    small["instance"]["restorePoint"] = json!({"backupRef": backup["id"]});
    let refused = api.post("/instances", &small).await?;
    let said = refused.message();
    ensure!(refused.status == 422 && said.contains("307 MiB") && said.contains("512 MiB"), "{refused:?}");
    redis.run(APP.0, APP.1, &["DEL", "large"])?;
    let resized = api.post(&format!("/instances/{id}/action"), &smaller).await?;
    ensure!(resized.status == 202, "{resized:?}");
    let view = api.await_active(&id).await?;
    ensure!(view["flavor"]["id"] == "1", "{view}");
    Ok(())
}
