//! Backups that are restored to a scratch instance and checked there.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use trove_tests::{Api, Clients, Engine, Stack, StackOptions, each_engine, leftovers};

use super::{columns, flip, instance_with_rows};

/// What a project uses of its quotas.
async fn used(stack: &Stack, project: &str) -> Result<Value> {
    let admin = stack.login("trove-admin").await?;
    Ok(admin.get(&format!("/mgmt/quotas/{project}")).await?.body)
}

/// Asserts that nothing is left of the scratch instance on which the backup was verified last.
pub(super) async fn no_scratch_is_left(stack: &Stack, api: &Api, backup: &str, hosts: &[&str]) -> Result<()> {
    let operations = api.await_backup_operations(backup).await?;
    ensure!(operations[0]["kind"] == "verify_backup", "{operations}");
    let scratch = operations[0]["steps"][0]["instance_id"].as_str().context("a scratch instance")?;
    leftovers::assert_nothing_of(scratch, &stack.host(scratch), &[])?;
    let there = stack.instances();
    ensure!(there == hosts, "there are the hosts {there:?}, expected {hosts:?}");
    let admin = stack.login("trove-admin").await?;
    let gone = admin.get(&format!("/mgmt/instances/{scratch}?deleted=true")).await?.body;
    ensure!(gone["instance"]["deleted"] == true && gone["instance"]["purpose"] == "verification", "{gone}");
    Ok(())
}

/// Whether trovectl succeeded, and what it said, its remarks, too.
fn trovectl(stack: &Stack, words: &[&str]) -> Result<(bool, String)> {
    let output = stack.trovectl_command(words)?.output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_verified_and_nothing_is_left_of_it() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let (id, _) = instance_with_rows(&api, "db1", 20_000).await?;
    let backup = api.back_up(&id, "nightly").await?;
    ensure!(api.await_backup(&backup).await?["status"] == "COMPLETED", "{}", stack.log_end());
    api.await_active(&id).await?;
    let before = used(&stack, &api.project).await?;
    let shown = api.get(&format!("/backups/{backup}")).await?.body["backup"].clone();
    ensure!(shown["verification"] == json!({"state": "none", "at": null, "fault": null}), "{shown}");

    api.verify_backup(&backup).await?;
    let running = api.get(&format!("/backups/{backup}")).await?.body["backup"]["verification"].clone();
    ensure!(running["state"] == "running", "{running}");
    ensure!(used(&stack, &api.project).await? == before, "a verification counts against the quota");
    let list = api.get("/instances").await?.body;
    ensure!(columns(&list["instances"], "name") == ["db1"], "{list}");
    ensure!(api.post(&format!("/backups/{backup}/action"), &json!({"verify": {}})).await?.status == 409);
    ensure!(api.delete(&format!("/backups/{backup}")).await?.status == 422);
    let verified = api.await_verification(&backup).await?;
    ensure!(verified["state"] == "passed" && verified["at"].is_string(), "{verified}\n{}", stack.log_end());
    no_scratch_is_left(&stack, &api, &backup, &[&id]).await?;
    ensure!(used(&stack, &api.project).await? == before);

    // Again, by the command line; and the unmodified client shows what it shows of any backup.
    let (done, said) = trovectl(&stack, &["backup", "verify", "nightly", "--wait", "--timeout", "180"])?;
    ensure!(done && said.contains("is verified at") && said.contains("passed"), "{said}");
    no_scratch_is_left(&stack, &api, &backup, &[&id]).await?;
    let user = Clients::new(&stack.clouds_yaml(), "trove")?;
    let shown = user.json(&["database", "backup", "show", "nightly"])?;
    ensure!(shown["status"] == "COMPLETED" && shown["name"] == "nightly", "{shown}");
    api.remove_backup(&backup).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_names_what_is_damaged_and_the_backup_stays() -> Result<()> {
    let config = "[backups]\nsegment_mib = 1\n".to_owned();
    let stack = Stack::start_with(StackOptions { config, ..StackOptions::default() }).await?;
    let api = stack.login("trove").await?;
    let (id, _) = instance_with_rows(&api, "db1", 20_000).await?;
    let backup = api.back_up(&id, "sound").await?;
    ensure!(api.await_backup(&backup).await?["status"] == "COMPLETED", "{}", stack.log_end());
    let objects = stack.objects(&backup)?;
    flip(&objects[1])?;
    let (done, said) = trovectl(&stack, &["backup", "verify", "sound", "--wait", "--timeout", "180"])?;
    ensure!(!done && said.contains("segment 00000001"), "{said}");
    let verified = api.await_verification(&backup).await?;
    let fault = verified["fault"].as_str().unwrap_or_default();
    ensure!(verified["state"] == "failed", "{verified}\n{}", stack.log_end());
    ensure!(fault.contains("segment 00000001") && fault.contains("restore"), "{fault}");
    no_scratch_is_left(&stack, &api, &backup, &[&id]).await?;
    let shown = api.get(&format!("/backups/{backup}")).await?.body["backup"].clone();
    ensure!(shown["status"] == "COMPLETED", "{shown}");
    // What was mended passes.
    flip(&objects[1])?;
    api.verify_backup(&backup).await?;
    let verified = api.await_verification(&backup).await?;
    ensure!(verified["state"] == "passed" && verified["fault"].is_null(), "{verified}\n{}", stack.log_end());
    no_scratch_is_left(&stack, &api, &backup, &[&id]).await
}

/// A backup passes, and the instance that it is of is not touched.
async fn passes(engine: Engine) -> Result<()> {
    let stack = Stack::of(engine).await?;
    let api = stack.login("trove").await?;
    let id = api.create(&engine.order("db1")).await?;
    let view = api.await_active(&id).await?;
    engine.write(&view, "before").await?;
    let backup = api.back_up(&id, "nightly").await?;
    ensure!(api.await_backup(&backup).await?["status"] == "COMPLETED", "{}", stack.log_end());
    api.verify_backup(&backup).await?;
    let verified = api.await_verification(&backup).await?;
    ensure!(verified["state"] == "passed", "{verified}\n{}", stack.log_end());
    no_scratch_is_left(&stack, &api, &backup, &[&id]).await?;
    assert_eq!(engine.read(&api.await_active(&id).await?).await?, ["before"]);
    Ok(())
}

each_engine!(a_backup_passes_its_verification_in: passes of redis, mariadb, mongodb);
