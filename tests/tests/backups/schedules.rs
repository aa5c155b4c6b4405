//! Backups that are taken, kept and verified by schedules.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use trove_tests::{Engine, Stack, StackOptions};

use super::verifications::no_scratch_is_left;
use super::{columns, flip, instance_with_rows, restored_from};

#[tokio::test(flavor = "multi_thread")]
async fn trovectl_has_backups_taken_by_themselves_and_the_oldest_goes() -> Result<()> {
    let config = "[backups]\nleast_schedule_interval = \"1s\"\n".to_owned();
    let mut stack = Stack::start_with(StackOptions { config, ..StackOptions::offering(&[Engine::Redis]) }).await?;
    let api = stack.login("trove").await?;
    let id = api.create(&Engine::Redis.order("db1")).await?;
    let view = api.await_active(&id).await?;
    Engine::Redis.write(&view, "kept").await?;
    let own = api.back_up(&id, "of a person").await?;
    ensure!(api.await_backup(&own).await?["status"] == "COMPLETED", "{}", stack.log_end());

    let ctl = |stack: &Stack, args: &[&str]| -> Result<Value> {
        let (ok, text) = stack.trovectl(&[&["backup", "schedule"][..], args, &["-o", "json"]].concat())?;
        ensure!(ok, "trovectl {args:?}: {text}");
        Ok(serde_json::from_str(&text).unwrap_or_default())
    };
    let (ok, text) = stack.trovectl(&["backup", "schedule", "create", "db1", "--every", "4s"])?;
    ensure!(!ok && text.contains("--keep"), "{text}");
    let (ok, text) =
        stack.trovectl(&["backup", "schedule", "create", "db1", "--cron", "0 0 31 2 *", "--keep", "7d"])?;
    ensure!(!ok && text.contains("backup_schedule['cron']"), "{text}");
    let (ok, text) = stack.trovectl(&[
        "backup",
        "schedule",
        "create",
        "db1",
        "--every",
        "4s",
        "--keep",
        "7d",
        "--full-every",
        "7d",
    ])?;
    ensure!(!ok && text.contains("has no incremental backups"), "{text}");
    let made = ctl(&stack, &["create", "db1", "--every", "4s", "--keep-count", "1", "--keep", "7d"])?;
    let schedule = made["id"].as_str().with_context(|| format!("{made}"))?.to_owned();
    assert_eq!(made["keep"], json!({"count": 1, "seconds": 7 * 24 * 3600}), "{made}");

    // The ids of the schedule's complete backups.
    let complete = async || -> Result<Vec<String>> {
        let all = api.get("/backups").await?.body["backups"].clone();
        let all = all.as_array().cloned().unwrap_or_default().into_iter();
        let all = all.filter(|backup| backup["schedule_id"] == *schedule && backup["status"] == "COMPLETED");
        Ok(all.filter_map(|backup| backup["id"].as_str().map(str::to_owned)).collect())
    };
    let limit = std::time::Duration::from_secs(120);
    let first = trove_tests::poll("the first backup", limit, &complete, |ids| !ids.is_empty()).await?.remove(0);
    let name = api.get(&format!("/backups/{first}")).await?.body["backup"]["name"].clone();
    ensure!(name.as_str().is_some_and(|name| name.starts_with("db1-2") && name.ends_with('Z')), "{name}");
    stack.kill_and_run()?;
    let goes_on = |ids: &Vec<String>| ids.iter().any(|id| *id != first);
    trove_tests::poll("a second backup", limit, &complete, goes_on).await?;
    let status = async || Ok(api.get(&format!("/backups/{first}")).await?.status);
    trove_tests::poll("the end of the first backup", limit, status, |status| *status == 404).await?;
    ensure!(stack.objects(&first)?.is_empty(), "objects are left of {first}");

    let paused = ctl(&stack, &["update", "db1", "--pause"])?;
    ensure!(paused["paused"] == true && paused["next_due"].is_null() && paused["last_run"].is_string(), "{paused}");
    api.await_operations(&id).await?;
    let newest = complete().await?;
    let list = ctl(&stack, &["list", "--instance", "db1"])?;
    assert_eq!(columns(&list, "id"), [schedule.as_str()]);
    ctl(&stack, &["delete", &schedule])?;
    assert_eq!(ctl(&stack, &["list"])?, json!([]));
    let (ok, text) = stack.trovectl(&["backup", "schedule", "show", "db1"])?;
    ensure!(!ok && text.contains("no backup schedule"), "{text}");
    assert_eq!(complete().await?, newest, "backups go with their schedule");
    assert_eq!(api.get(&format!("/backups/{own}")).await?.body["backup"]["status"], "COMPLETED");

    let new = api.create(&restored_from(newest.first().context("a backup")?, "new")).await?;
    let view = api.await_active(&new).await.with_context(|| stack.log_end())?;
    assert_eq!(Engine::Redis.read(&view).await?, ["kept"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_takes_increments_and_keeps_what_they_need() -> Result<()> {
    let engine = Engine::MariaDb;
    let config = "[backups]\nleast_schedule_interval = \"1s\"\n".to_owned();
    let mut stack = Stack::start_with(StackOptions { config, ..StackOptions::offering(&[engine]) }).await?;
    let api = stack.login("trove").await?;
    let id = api.create(&engine.order("db1")).await?;
    let view = api.await_active(&id).await?;
    engine.write(&view, "first").await?;
    let ctl = |stack: &Stack, words: &[&str]| -> Result<()> {
        let (ok, said) = stack.trovectl(&[&["backup", "schedule"][..], words].concat())?;
        ensure!(ok, "trovectl {words:?}: {said}");
        Ok(())
    };
    ctl(&stack, &["create", "db1", "--every", "4s", "--full-every", "1h", "--keep-count", "1", "--verify", "off"])?;
    // The complete backups, the oldest first: their ids, and what each builds on.
    let complete = async || -> Result<Vec<(String, Option<String>)>> {
        let all = api.get("/backups").await?.body["backups"].clone();
        let mut all = all.as_array().cloned().unwrap_or_default();
        all.retain(|backup| backup["status"] == "COMPLETED");
        all.sort_by_key(|backup| backup["name"].as_str().map(str::to_owned));
        let text = |backup: &Value, field: &str| backup[field].as_str().map(str::to_owned);
        Ok(all.iter().filter_map(|backup| Some((text(backup, "id")?, text(backup, "parent_id")))).collect())
    };
    let limit = std::time::Duration::from_secs(180);
    let some = trove_tests::poll("three backups", limit, &complete, |found| found.len() >= 3).await?;
    engine.write(&view, "second").await?;
    stack.kill_and_run()?;
    // One that runs now may have begun before.
    let more = |found: &Vec<_>| found.len() >= some.len() + 2;
    trove_tests::poll("two more", limit, &complete, more).await.with_context(|| stack.log_end())?;
    ctl(&stack, &["update", "db1", "--pause"])?;
    api.await_active(&id).await?;
    let chain = complete().await?;
    let before = [None].into_iter().chain(chain.iter().map(|(id, _)| Some(id.clone())));
    for ((id, parent), before) in chain.iter().zip(before) {
        ensure!(*parent == before, "{id} builds on {parent:?}, expected {before:?}");
    }
    let newest = &chain.last().context("a backup")?.0;
    let new = api.create(&restored_from(newest, "new")).await?;
    let view = api.await_active(&new).await.with_context(|| stack.log_end())?;
    assert_eq!(engine.read(&view).await?, ["first", "second"]);

    ctl(&stack, &["update", "db1", "--resume", "--full-every", "off"])?;
    let one = |found: &Vec<(String, Option<String>)>| found.len() == 1 && found[0].1.is_none();
    let last = trove_tests::poll("one full backup", limit, &complete, one).await.with_context(|| stack.log_end())?;
    ensure!(!chain.contains(&last[0]), "the first full one is left");
    ctl(&stack, &["delete", "db1"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_has_its_backups_verified_and_says_which_one_is_damaged() -> Result<()> {
    let config = "[backups]\nleast_schedule_interval = \"1s\"\n".to_owned();
    let stack = Stack::start_with(StackOptions { config, ..StackOptions::default() }).await?;
    let api = stack.login("trove").await?;
    let (id, _) = instance_with_rows(&api, "db1", 20_000).await?;
    let ctl = |stack: &Stack, words: &[&str]| -> Result<Value> {
        let (ok, said) = stack.trovectl(&[&["backup", "schedule"][..], words, &["-o", "json"]].concat())?;
        ensure!(ok, "trovectl {words:?}: {said}");
        Ok(serde_json::from_str(&said)?)
    };
    let (ok, said) = stack.trovectl(&[
        "backup",
        "schedule",
        "create",
        "db1",
        "--every",
        "4s",
        "--keep-count",
        "50",
        "--verify",
        "0s",
    ])?;
    ensure!(!ok && said.contains("or off"), "{said}");
    let made = ctl(&stack, &["create", "db1", "--every", "4s", "--keep-count", "50", "--verify", "1s"])?;
    ensure!(made["verify_seconds"] == 1 && made["last_verification"].is_null(), "{made}");
    let path = format!("/backup_schedules/{}", made["id"].as_str().with_context(|| format!("{made}"))?);
    let verified = async |state: &str| {
        let limit = std::time::Duration::from_secs(300);
        let look = async || Ok(api.get(&path).await?.body["backup_schedule"].clone());
        let is_there = |schedule: &Value| schedule["last_verification"]["state"] == state;
        let found = trove_tests::poll(&format!("the verification {state}"), limit, look, is_there).await;
        found.with_context(|| stack.log_end())
    };
    let running = verified("running").await?["last_verification"]["backup_id"].clone();
    let of = running.as_str().context("a backup")?.to_owned();
    ensure!(api.get(&format!("/backups/{of}")).await?.body["backup"]["verification"]["state"] == "running");
    verified("passed").await?;
    no_scratch_is_left(&stack, &api, &of, &[&id]).await?;

    // The next one is damaged before its turn comes, and no more are taken.
    let newer = async || -> Result<Vec<String>> {
        let all = api.get("/backups").await?.body["backups"].clone();
        let all = all.as_array().cloned().unwrap_or_default();
        let mut all: Vec<_> = all.iter().filter(|backup| backup["status"] == "COMPLETED").collect();
        all.sort_by_key(|backup| backup["created"].as_str().map(str::to_owned));
        Ok(all.iter().filter_map(|backup| backup["id"].as_str().map(str::to_owned)).collect())
    };
    let limit = std::time::Duration::from_secs(120);
    let is_newer = |ids: &Vec<String>| ids.last().is_some_and(|id| *id != of);
    trove_tests::poll("another backup", limit, &newer, is_newer).await?;
    ctl(&stack, &["update", "db1", "--pause"])?;
    api.await_active(&id).await?;
    let damaged = newer().await?.pop().context("a backup")?;
    flip(&stack.objects(&damaged)?[0])?;
    ctl(&stack, &["update", "db1", "--resume", "--every", "1d"])?;
    let failed = verified("failed").await?["last_verification"].clone();
    let fault = failed["fault"].as_str().unwrap_or_default();
    ensure!(failed["backup_id"] == *damaged && fault.contains("segment 00000000"), "{failed}");
    let shown = api.get(&format!("/backups/{damaged}")).await?.body["backup"].clone();
    ensure!(shown["verification"]["fault"] == failed["fault"] && shown["status"] == "COMPLETED", "{shown}");
    ensure!(columns(&ctl(&stack, &["list"])?, "fault").is_empty(), "the backups themselves are taken");
    no_scratch_is_left(&stack, &api, &damaged, &[&id]).await
}
