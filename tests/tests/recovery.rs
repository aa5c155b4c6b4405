//! Points in time through the whole service: a ledger of acknowledged writes, restored to a time, holds what was acknowledged before
//! it and nothing of later; whatever is killed meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio_postgres::Client;
use trove_tests::{
    APP, Api, Database, Engine, Failpoints, MariaDb, Stack, StackOptions, connect, each_engine, leftovers, poll, rows,
};

/// As short as it can be, so that a test sees several intervals.
const SHORT: &str = "[backups]\nlog_interval = \"1s\"\nlog_idle_interval = \"1s\"\n";
const LIMIT: Duration = Duration::from_secs(120);
/// What must be found in no object.
const ROW: &str = "a row that nobody reads in the storage";

/// A tenant that is logged in to the database `app`.
enum Tenant {
    PostgreSql(Client),
    MariaDb(MariaDb),
}

impl Tenant {
    async fn new(engine: Engine, view: &Value) -> Result<Self> {
        Ok(match engine {
            Engine::MariaDb => Self::MariaDb(MariaDb::plain(view)?),
            _ => Self::PostgreSql(connect(view, APP.0, APP.1, "app").await?),
        })
    }

    /// Rows of one column.
    async fn run(&self, sql: &str) -> Result<Vec<String>> {
        match self {
            Self::PostgreSql(client) => rows(client, sql).await,
            Self::MariaDb(server) => {
                let said = server.run(APP.0, APP.1, &format!("use app; {sql}"))?;
                Ok(said.lines().map(str::to_owned).collect())
            }
        }
    }
}

/// As exactly as the engine's log knows when something was written: MariaDB counts seconds.
fn exactly(engine: Engine) -> Duration {
    if engine == Engine::MariaDb { Duration::from_secs(1) } else { Duration::ZERO }
}

/// A write: its number, when it was sent, and when it was acknowledged.
#[derive(Clone, Copy)]
struct Write {
    number: i64,
    sent: SystemTime,
    acknowledged: SystemTime,
}

/// Writes rows until it is told to stop. What was not acknowledged is not in the ledger.
async fn write(engine: Engine, view: Value, stop: Arc<AtomicBool>) -> Vec<Write> {
    let (mut ledger, mut number) = (Vec::new(), 0);
    while !stop.load(Ordering::SeqCst) {
        let Ok(tenant) = Tenant::new(engine, &view).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        while !stop.load(Ordering::SeqCst) {
            number += 1;
            let sent = SystemTime::now();
            if tenant.run(&format!("insert into ledger values ({number}, '{ROW}')")).await.is_err() {
                break;
            }
            ledger.push(Write { number, sent, acknowledged: SystemTime::now() });
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    ledger
}

/// A time as the API takes it.
fn text(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}

async fn window(api: &Api, id: &str) -> Result<Value> {
    let answer = api.get(&format!("/instances/{id}/recovery-window")).await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(answer.body["recovery_window"].clone())
}

/// Waits until whatever was acknowledged before this time is stored.
async fn await_covered(stack: &Stack, api: &Api, id: &str, time: SystemTime) -> Result<Value> {
    // What is shown has whole seconds.
    let wanted = humantime::format_rfc3339_seconds(time + Duration::from_secs(1)).to_string();
    let wanted = wanted.trim_end_matches('Z').to_owned();
    let is_there = |window: &Value| window["covered"].as_str().is_some_and(|covered| *covered >= *wanted);
    poll("that the log is stored", LIMIT, async || window(api, id).await, is_there)
        .await
        .with_context(|| stack.log_end())
}

fn restored(instance: &str, name: &str, time: Option<SystemTime>) -> Value {
    let mut point = json!({"instance": instance});
    if let Some(time) = time {
        point["time"] = json!(text(time));
    }
    json!({"instance": {"name": name, "flavorRef": "1", "volume": {"size": 1}, "restorePoint": point}})
}

async fn numbers(engine: Engine, view: &Value) -> Result<Vec<i64>> {
    let found = Tenant::new(engine, view).await?.run("select n from ledger order by n").await?;
    found.iter().map(|number| Ok(number.parse()?)).collect()
}

/// That what is there is what the ledger says of this time. What was acknowledged so shortly before it may be missing.
fn compare(found: &[i64], ledger: &[Write], time: SystemTime, exactly: Duration) -> Result<()> {
    for write in ledger {
        let is_there = found.binary_search(&write.number).is_ok();
        let Write { number, sent, acknowledged } = *write;
        ensure!(is_there || acknowledged + exactly >= time, "write {number}, acknowledged before, is missing");
        ensure!(!is_there || sent <= time, "write {number}, sent later, is there");
    }
    Ok(())
}

/// Directories of containers: those of no backup.
fn containers(stack: &Stack, backups: &[&str]) -> Result<Vec<PathBuf>> {
    let all = std::fs::read_dir(stack.storage())?.collect::<std::io::Result<Vec<_>>>()?;
    let all = all.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir());
    Ok(all.filter(|path| !backups.iter().any(|backup| path.ends_with(backup))).collect())
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() { files(&path, found)? } else { found.push(path) }
    }
    Ok(())
}

fn options(engine: Engine) -> StackOptions {
    StackOptions { config: SHORT.to_owned(), ..StackOptions::offering(&[engine]) }
}

async fn stack(engine: Engine) -> Result<Stack> {
    Stack::start_with(options(engine)).await
}

/// An instance whose log is shipped, with an empty ledger and a full backup.
async fn shipping(engine: Engine, stack: &Stack, api: &Api) -> Result<(String, Value, String)> {
    let id = api.create(&engine.order("db1")).await?;
    let view = api.await_active(&id).await?;
    let tenant = Tenant::new(engine, &view).await?;
    tenant.run("create table ledger (n bigint primary key, word text)").await?;
    let before = window(api, &id).await?;
    ensure!(before == json!({"keep_seconds": null, "ranges": [], "covered": null}), "{before}");
    let (ok, said) = stack.trovectl(&["instance", "recovery-window", "db1", "--keep", "7d"])?;
    ensure!(ok, "{said}");
    let covered = await_covered(stack, api, &id, SystemTime::now()).await?;
    ensure!(covered["ranges"] == json!([]) && covered["keep_seconds"] == 7 * 24 * 3600, "{covered}");
    let early = api.post("/instances", &restored(&id, "early", None)).await?;
    ensure!(early.status == 422 && early.message().contains("full backup"), "{early:?}");
    let backup = api.back_up(&id, "base").await?;
    let taken = api.await_backup(&backup).await?;
    ensure!(taken["status"] == "COMPLETED", "{taken}\n{}", stack.log_end());
    Ok((id, view, backup))
}

async fn is_made_as_another_was(engine: Engine) -> Result<()> {
    let mut stack = stack(engine).await?;
    let api = stack.login("trove").await?;
    let (id, view, backup) = shipping(engine, &stack, &api).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(write(engine, view.clone(), stop.clone()));
    for victim in ["agent", "controller", "engine"] {
        tokio::time::sleep(Duration::from_secs(3)).await;
        match victim {
            "controller" => stack.kill_and_run()?,
            "agent" => kill_all(&leftovers::agents(&id))?,
            _ => kill_all(&leftovers::engines(&id))?,
        }
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop.store(true, Ordering::SeqCst);
    let ledger = writing.await?;
    ensure!(ledger.len() > 100, "{} writes", ledger.len());
    let shown = await_covered(&stack, &api, &id, SystemTime::now()).await?;
    ensure!(shown["ranges"].as_array().is_some_and(|ranges| ranges.len() == 1), "there is a gap: {shown}");

    // The storage tells nothing.
    let (mut objects, found) = (Vec::new(), containers(&stack, &[&backup])?);
    found.iter().try_for_each(|container| files(container, &mut objects))?;
    ensure!(objects.len() > 3, "{objects:?}");
    for object in &objects {
        let bytes = std::fs::read(object)?;
        ensure!(!bytes.windows(ROW.len()).any(|window| window == ROW.as_bytes()), "{object:?} can be read");
    }

    // Whoever asks for what is not there is told what is.
    let from = shown["ranges"][0]["from"].as_str().context("a beginning")?.to_owned();
    let late = SystemTime::now() + Duration::from_secs(3600);
    let outside = api.post("/instances", &restored(&id, "outside", Some(late))).await?;
    ensure!(outside.status == 422 && outside.message().contains(&from[..16]), "{outside:?}, not {from}");

    let middle = ledger[ledger.len() / 2].acknowledged;
    let (ok, said) =
        stack.trovectl(&["instance", "restore", "db1", "--to", &text(middle), "--as", "then", "--wait"])?;
    ensure!(ok, "{said}\n{}", stack.log_end());
    let then = trove_tests::poll("then", LIMIT, async || Ok(api.get("/instances").await?.body), |_| true).await?;
    let then = then["instances"].as_array().into_iter().flatten().find(|instance| instance["name"] == "then");
    let then = then.and_then(|then| then["id"].as_str()).context("the restored one")?.to_owned();
    let view = api.await_active(&then).await?;
    compare(&numbers(engine, &view).await?, &ledger, middle, exactly(engine))?;
    // It is an instance like any other: it can be written to, started anew, and shipped itself.
    let tenant = Tenant::new(engine, &view).await?;
    tenant.run("insert into ledger values (-1, 'afterwards')").await?;
    assert_eq!(api.post(&format!("/instances/{then}/action"), &json!({"restart": {}})).await?.status, 202);
    api.await_operations(&then).await?;
    let view = api.await_active(&then).await?;
    ensure!(numbers(engine, &view).await?.first() == Some(&-1), "what was written afterwards is gone");

    // The source may go: what was stored of it stays.
    assert_eq!(api.delete(&format!("/instances/{id}")).await?.status, 202);
    api.await_gone(&id).await?;
    let left = window(&api, &id).await?;
    ensure!(left["keep_seconds"].is_null() && left["ranges"].as_array().is_some_and(|all| all.len() == 1), "{left}");
    let last = api.create(&restored(&id, "last", None)).await?;
    let view = api.await_active(&last).await.with_context(|| stack.log_end())?;
    let all: Vec<i64> = ledger.iter().map(|write| write.number).collect();
    let found = numbers(engine, &view).await?;
    let missing: Vec<_> = all.iter().filter(|number| found.binary_search(number).is_err()).collect();
    ensure!(missing.is_empty(), "acknowledged and missing: {missing:?}");
    Ok(())
}

each_engine!(an_instance_is_made_as_another_was_at_any_time_whatever_was_killed_in: is_made_as_another_was of postgresql, mariadb);

fn kill_all(pids: &[i32]) -> Result<()> {
    ensure!(!pids.is_empty(), "nobody to kill");
    pids.iter().try_for_each(|pid| Ok(kill(Pid::from_raw(*pid), Signal::SIGKILL)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_piece_is_named_and_never_replayed() -> Result<()> {
    let stack = stack(Engine::PostgreSql).await?;
    let api = stack.login("trove").await?;
    let (id, view, backup) = shipping(Engine::PostgreSql, &stack, &api).await?;
    let tenant = Tenant::new(Engine::PostgreSql, &view).await?;
    tenant.run("insert into ledger values (1, 'one')").await?;
    await_covered(&stack, &api, &id, SystemTime::now()).await?;
    tenant.run("insert into ledger values (2, 'two')").await?;
    await_covered(&stack, &api, &id, SystemTime::now()).await?;
    let mut objects = Vec::new();
    containers(&stack, &[&backup])?.iter().try_for_each(|container| files(container, &mut objects))?;
    objects.sort();
    let last = objects.last().context("an object")?;
    let sound = std::fs::read(last)?;
    let mut flipped = sound.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for (what, damaged) in
        [("a bit is flipped", Some(flipped)), ("it is cut off", Some(sound[..100].to_vec())), ("it is missing", None)]
    {
        match damaged {
            Some(bytes) => std::fs::write(last, bytes)?,
            None => std::fs::remove_file(last)?,
        }
        let new = api.create(&restored(&id, "damaged", None)).await?;
        let view = api.await_error(&new).await.context(what)?;
        let fault = view["fault"]["message"].as_str().unwrap_or_default();
        let name = last.file_name().and_then(|name| name.to_str()).context("a name")?;
        ensure!(fault.contains("piece") && fault.contains(name), "{what}: the fault is {fault:?}");
        assert_eq!(api.delete(&format!("/instances/{new}")).await?.status, 202);
        api.await_gone(&new).await?;
        std::fs::write(last, &sound)?;
    }
    let new = api.create(&restored(&id, "mended", None)).await?;
    let view = api.await_active(&new).await.with_context(|| stack.log_end())?;
    assert_eq!(numbers(Engine::PostgreSql, &view).await?, [1, 2]);
    Ok(())
}

async fn dies_between_any_two_steps(engine: Engine) -> Result<()> {
    let points =
        ["agent.logs.stored", "agent.logs.recorded", "agent.replay.before_replay", "agent.replay.after_replay"];
    let deaths = points.map(|point| format!("{point}=kill")).join(",");
    let mut stack = Stack::prepare(options(engine))?;
    stack.run(&Failpoints { controller: None, agent: Some(deaths) })?;
    stack.await_datastore().await?;
    let api = stack.login("trove").await?;
    let (id, view, _) = shipping(engine, &stack, &api).await?;
    for number in 1..=3 {
        let tenant = Tenant::new(engine, &view).await?;
        tenant.run(&format!("insert into ledger values ({number}, 'kept')")).await?;
        await_covered(&stack, &api, &id, SystemTime::now()).await?;
    }
    let shown = window(&api, &id).await?;
    ensure!(shown["ranges"].as_array().is_some_and(|ranges| ranges.len() == 1), "there is a gap: {shown}");
    let new = api.create(&restored(&id, "new", None)).await?;
    let view = api.await_active(&new).await.with_context(|| stack.log_end())?;
    assert_eq!(numbers(engine, &view).await?, [1, 2, 3]);
    for point in points {
        ensure!(stack.fired()?.join(point).exists(), "{point} was never reached");
    }
    Ok(())
}

each_engine!(an_agent_leaves_no_gap_and_replays_to_the_end_that_dies_in: dies_between_any_two_steps of postgresql, mariadb);

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_is_away_is_said_and_waited_for() -> Result<()> {
    let stack = stack(Engine::PostgreSql).await?;
    let api = stack.login("trove").await?;
    let (id, view, _) = shipping(Engine::PostgreSql, &stack, &api).await?;
    let tenant = Tenant::new(Engine::PostgreSql, &view).await?;
    tenant.run("insert into ledger values (1, 'before')").await?;
    await_covered(&stack, &api, &id, SystemTime::now()).await?;

    let (there, away) = (stack.storage(), stack.state().join("away"));
    std::fs::rename(&there, &away)?;
    std::fs::create_dir(&there)?;
    tenant.run("insert into ledger values (2, 'meanwhile')").await?;
    let fault =
        |view: &Value| view["fault"]["message"].as_str().unwrap_or_default().contains("has not been stored since");
    poll("that it is said", LIMIT, async || api.instance(&id).await, fault).await.with_context(|| stack.log_end())?;
    std::fs::remove_dir(&there)?;
    std::fs::rename(&away, &there)?;
    await_covered(&stack, &api, &id, SystemTime::now()).await?;
    let is_well = |view: &Value| view["fault"].is_null() && view["operating_status"] == "HEALTHY";
    poll("that it is well", LIMIT, async || api.instance(&id).await, is_well).await?;
    let shown = window(&api, &id).await?;
    ensure!(shown["ranges"].as_array().is_some_and(|ranges| ranges.len() == 1), "there is a gap: {shown}");
    Ok(())
}

/// One agent goes on for days, and each of them has a container of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_several_days_is_replayed_through_all_of_them() -> Result<()> {
    let database = Database::start()?;
    let shared = Some(database.shared());
    let stack = Stack::start_with(StackOptions { config: SHORT.to_owned(), shared, ..StackOptions::default() }).await?;
    let api = stack.login("trove").await?;
    let (id, view, _) = shipping(Engine::PostgreSql, &stack, &api).await?;
    let tenant = Tenant::new(Engine::PostgreSql, &view).await?;
    let store = database.connect().await?;
    for number in 1..=3 {
        tenant.run(&format!("insert into ledger values ({number}, 'kept')")).await?;
        await_covered(&stack, &api, &id, SystemTime::now()).await?;
        store.batch_execute("update log_container set created = created - 90000000000").await?;
        store.batch_execute("update backup set created = created - 90000000000").await?;
    }
    let days = store.query_one("select count(distinct container_id) from log_piece", &[]).await?.get::<_, i64>(0);
    ensure!(days > 1, "{days} containers");
    let shown = window(&api, &id).await?;
    ensure!(shown["ranges"].as_array().is_some_and(|ranges| ranges.len() == 1), "there is a gap: {shown}");
    let new = api.create(&restored(&id, "new", None)).await?;
    let view = api.await_active(&new).await.with_context(|| stack.log_end())?;
    assert_eq!(numbers(Engine::PostgreSql, &view).await?, [1, 2, 3]);
    Ok(())
}
