//! The engine or the agent is killed, or the agent is suspended: both come back, with all committed data.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::json;
use trove_tests::{Failpoints, Stack, StackOptions, connect, has_root_or_skips, leftovers, poll, rows};

#[tokio::test]
async fn a_killed_engine_comes_back_with_its_committed_rows() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("engine").await?;
    let view = api.instance(&id).await?;
    let client = connect(&view, "app", "secret-app-1", "app").await?;
    rows(&client, "create table t (n int); insert into t select generate_series(1, 5000)").await?;
    for _ in 0..2 {
        let engines = leftovers::engines(&id);
        ensure!(engines.len() == 1, "{engines:?}");
        kill(Pid::from_raw(engines[0]), Signal::SIGKILL)?;
        let another = |pids: &Vec<i32>| pids.len() == 1 && pids[0] != engines[0];
        poll("another engine", Duration::from_secs(30), async || Ok(leftovers::engines(&id)), another).await?;
        let view = api.await_active(&id).await?;
        let client = connect_again(&view).await?;
        assert_eq!(rows(&client, "select count(*) from t").await?, ["5000"]);
    }
    Ok(())
}

/// What a recovery may take beside the engine's own.
const SERVICE: Duration = Duration::from_secs(30);

async fn connect_again(view: &serde_json::Value) -> Result<tokio_postgres::Client> {
    let ask = async || connect(view, "app", "secret-app-1", "app").await;
    poll("a connection", Duration::from_secs(60), ask, |_| true).await
}

/// Inserts rows until the connection breaks. Returns the number of acknowledged rows.
async fn insert(view: serde_json::Value, worker: i32) -> Result<u64> {
    let client = connect(&view, "app", "secret-app-1", "app").await?;
    let mut acknowledged = 0;
    let statement = format!("insert into load select {worker}, repeat('x', 500)");
    while rows(&client, &statement).await.is_ok() {
        acknowledged += 1;
    }
    Ok(acknowledged)
}

/// Kills a process when dropped.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a process with the engine's account, and writes its pid to the pid file of the killed engine.
fn nobodys_process(host: &std::path::Path, engine: i32) -> Result<Ended> {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    let mut open = vec![host.join("volume")];
    let mut found = None;
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.ends_with("postmaster.pid") {
                found = Some(path);
            } else if path.is_dir() {
                open.push(path);
            }
        }
    }
    let file = found.context("the file with the engine's process id")?;
    let facts = std::fs::metadata(&file)?;
    let mut command = std::process::Command::new("sleep");
    command.arg("60").current_dir("/");
    if nix::unistd::getuid().is_root() {
        command.uid(facts.uid()).gid(facts.gid());
    }
    let another = Ended(command.spawn()?);
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replacen(&engine.to_string(), &another.0.id().to_string(), 1))?;
    Ok(another)
}

#[tokio::test]
async fn everything_killed_at_once_under_load_comes_back_and_an_accepted_change_is_made() -> Result<()> {
    let mut stack = Stack::start().await?;
    stack.stop()?;
    let accepted = "enqueue.change_accounts.after_commit=kill".to_owned();
    stack.run(&Failpoints { controller: Some(accepted), agent: None })?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("crash").await?;
    let view = api.instance(&id).await?;
    let client = connect(&view, "app", "secret-app-1", "app").await?;
    rows(
        &client,
        "create table load (worker int, text text); insert into load select 0, repeat('x', 500) from \
                   generate_series(1, 200000)",
    )
    .await?;
    let workers: Vec<_> = (1..=4).map(|worker| tokio::spawn(insert(view.clone(), worker))).collect();
    tokio::time::sleep(Duration::from_secs(3)).await;

    // The controller dies right after it accepted the change; then agent and engine are killed.
    let (agent, engine) = (leftovers::agents(&id)[0], leftovers::engines(&id)[0]);
    let body = json!({"databases": [{"name": "accepted"}]});
    let cut_off = api.post(&format!("/instances/{id}/databases"), &body).await;
    stack.await_death(Duration::from_secs(10)).await?;
    for pid in [engine, agent] {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    }
    ensure!(cut_off.is_err(), "{cut_off:?}");
    let another = nobodys_process(&stack.host(&id), engine)?;
    let mut acknowledged = 0;
    for worker in workers {
        acknowledged += worker.await??;
    }

    let begun = std::time::Instant::now();
    stack.run(&Failpoints::default())?;
    println!("the controller serves after {:?}", begun.elapsed());
    let client = connect_again(&view).await?;
    println!("the engine answers after {:?}", begun.elapsed());
    let log = std::fs::read_to_string(stack.host(&id).join("log/engine.log"))?;
    ensure!(!log.contains("lock file"), "a start failed because of what an earlier life left:\n{log}");
    drop(another);
    let ended = api.await_operations(&id).await?;
    let made = begun.elapsed();
    let said = std::fs::read_to_string(stack.host(&id).join("log/agent.log"))?;
    let mut starts =
        said.lines().rev().filter_map(|line| line.split_once("the engine answers elapsed_ms=")?.1.parse().ok());
    let engine = Duration::from_millis(starts.next().context("the agent does not say how long the engine took")?);
    println!("the change is made after {made:?}, of which the engine took {engine:?}");
    // How long the engine reads its log depends on the machine; what the service adds to it takes a few seconds.
    ensure!(made < engine + SERVICE, "the change is made after {made:?}, and the engine took {engine:?}");
    ensure!(ended[0]["kind"] == "change_accounts" && ended[0]["status"] == "done", "{ended}");
    api.await_active(&id).await?;
    let kept: u64 = rows(&client, "select count(*) from load where worker > 0").await?[0].parse()?;
    // Each worker may have one more row, whose commit was not acknowledged.
    ensure!((acknowledged..=acknowledged + 4).contains(&kept), "{kept} of {acknowledged}");
    let names = api.get(&format!("/instances/{id}/databases")).await?.body;
    ensure!(names.to_string().contains("accepted"), "{names}");
    Ok(())
}

#[tokio::test]
async fn an_agent_adopts_the_engine_that_runs() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("adopt").await?;
    let (engine, agent) = (leftovers::engines(&id), leftovers::agents(&id));
    kill(Pid::from_raw(agent[0]), Signal::SIGKILL)?;
    let other = |pids: &Vec<i32>| pids.len() == 1 && pids != &agent;
    poll("another agent", Duration::from_secs(20), async || Ok(leftovers::agents(&id)), other).await?;
    api.await_active(&id).await?;
    assert_eq!(leftovers::engines(&id), engine, "the engine was restarted");
    Ok(())
}

#[tokio::test]
async fn an_agent_whose_files_were_cut_in_half_comes_back_and_serves() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("halves").await?;
    let state = stack.host(&id).join("agent");
    let whole = std::fs::read(state.join("assignment"))?;
    let (engine, agent) = (leftovers::engines(&id), leftovers::agents(&id));
    for name in ["desired", "engine.json", "assignment"] {
        let contents = std::fs::read(state.join(name))?;
        std::fs::write(state.join(name), &contents[..contents.len() / 2])?;
    }
    kill(Pid::from_raw(agent[0]), Signal::SIGKILL)?;
    let other = |pids: &Vec<i32>| pids.len() == 1 && pids != &agent;
    poll("another agent", Duration::from_secs(20), async || Ok(leftovers::agents(&id)), other).await?;
    let read = async || Ok(std::fs::read(state.join("assignment")).unwrap_or_default());
    let is_whole = |now: &Vec<u8>| now.len() == whole.len();
    poll("the assignment again", Duration::from_secs(60), read, is_whole).await?;
    assert_eq!(api.await_active(&id).await?["operating_status"], "HEALTHY");
    assert_eq!(leftovers::engines(&id), engine, "the engine was restarted");
    for name in ["desired", "engine.json", "assignment"] {
        ensure!(state.join(format!("{name}.damaged")).exists(), "{name}");
    }
    let body = json!({"users": [{"name": "app", "password": "secret-app-2"}]});
    let changed = api.send(Method::PUT, &format!("/instances/{id}/users"), Some(&body)).await?;
    ensure!(changed.status == 202, "{changed:?}");
    connect(&api.instance(&id).await?, "app", "secret-app-2", "app").await?;
    Ok(())
}

#[tokio::test]
async fn an_agents_certificate_is_renewed_in_time_and_after_it_has_expired() -> Result<()> {
    let options = StackOptions { config: "certificate_lifetime = \"12s\"".to_owned(), ..StackOptions::default() };
    let stack = Stack::start_with(options).await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("renewed").await?;
    let file = stack.host(&id).join("agent/identity.pem");
    let first = std::fs::read_to_string(&file)?;
    let read = async || Ok(std::fs::read_to_string(&file)?);
    let second = poll("another certificate", Duration::from_secs(15), read, |now| *now != first).await?;
    assert_eq!(api.await_active(&id).await?["operating_status"], "HEALTHY");

    // Suspend it for longer than its certificate is valid.
    let agent = Pid::from_raw(leftovers::agents(&id)[0]);
    kill(agent, Signal::SIGSTOP)?;
    tokio::time::sleep(Duration::from_secs(14)).await;
    kill(agent, Signal::SIGCONT)?;
    poll("a third certificate", Duration::from_secs(30), read, |now| *now != first && *now != second).await?;
    api.await_active(&id).await?;
    let created = api.post(&format!("/instances/{id}/databases"), &json!({"databases": [{"name": "after"}]})).await?;
    assert_eq!(created.status, 202, "{created:?}");
    assert_eq!(api.await_operations(&id).await?[0]["status"], "done");
    Ok(())
}

#[tokio::test]
async fn the_service_works_as_an_ordinary_user() -> Result<()> {
    if !has_root_or_skips("every other story runs as an ordinary user already") {
        return Ok(());
    }
    let options = StackOptions { account: Some("nobody".to_owned()), ..StackOptions::default() };
    let stack = Stack::start_with(options).await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("ordinary").await?;
    let view = api.instance(&id).await?;
    connect(&view, "app", "secret-app-1", "app").await?;
    let root = api.post(&format!("/instances/{id}/root"), &json!({})).await?;
    assert_eq!(root.status, 403, "root hands out a shell as the service's own account: {root:?}");
    let pids = leftovers::processes(&id);
    assert_eq!(api.delete(&format!("/instances/{id}")).await?.status, 202);
    api.await_gone(&id).await?;
    leftovers::assert_nothing_of(&id, &stack.host(&id), &pids)
}

#[tokio::test]
async fn the_service_works_below_a_directory_that_is_closed_to_the_engines_account() -> Result<()> {
    // A temporary directory has mode 0700.
    let closed = tempfile::tempdir()?;
    let options = StackOptions { parent: Some(closed.path().to_owned()), ..StackOptions::default() };
    let stack = Stack::start_with(options).await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("closed").await?;
    connect(&api.instance(&id).await?, "app", "secret-app-1", "app").await?;
    let pids = leftovers::processes(&id);
    assert_eq!(api.delete(&format!("/instances/{id}")).await?.status, 202);
    api.await_gone(&id).await?;
    leftovers::assert_nothing_of(&id, &stack.host(&id), &pids)
}
