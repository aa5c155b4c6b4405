//! The controller is killed before and after every step, and at random instants; after a restart each operation ends as
//! if nothing had happened.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use trove_tests::{Api, Failpoints, Stack, connect, leftovers, order_body, poll, rows};

/// The steps of a kind of operation, as the service itself lists them for one that ended.
async fn steps(api: &Api, id: &str, kind: &str) -> Result<Vec<String>> {
    let operations = api.await_operations(id).await?;
    let all = operations.as_array().context("operations")?;
    let operation = all.iter().find(|operation| operation["kind"] == kind).context("an operation of the kind")?;
    let steps = operation["steps"].as_array().context("steps")?;
    Ok(steps.iter().filter_map(|step| step["name"].as_str().map(str::to_owned)).collect())
}

/// Both failpoints of each step.
fn points(kind: &str, steps: &[String]) -> Vec<String> {
    let both = |step: &String| ["before", "after"].map(|side| format!("operation.{kind}.{step}.{side}=kill"));
    steps.iter().flat_map(both).collect()
}

/// Restarts the controller with a failpoint armed.
fn arm(stack: &mut Stack, entries: &str) -> Result<()> {
    stack.kill()?;
    stack.run(&Failpoints { controller: Some(entries.to_owned()), agent: None })
}

/// The armed controller dies; the next one carries on.
async fn die_and_carry_on(stack: &mut Stack, point: &str) -> Result<()> {
    let died = stack.await_death(Duration::from_secs(30)).await;
    died.with_context(|| format!("the failpoint {point} was never reached\n{}", stack.log_end()))?;
    stack.run(&Failpoints::default())
}

/// One engine, one agent, rows there, nothing under way.
async fn assert_well(stack: &Stack, api: &Api, id: &str, table: &str) -> Result<()> {
    let view = api.await_active(id).await.with_context(|| stack.log_end())?;
    let operations = api.await_operations(id).await?;
    for operation in operations.as_array().context("operations")? {
        ensure!(operation["status"] == "done", "{operation}");
    }
    let (engines, agents) = (leftovers::engines(id), leftovers::agents(id));
    ensure!(engines.len() == 1 && agents.len() == 1, "engines {engines:?}, agents {agents:?}");
    let client = connect(&view, "app", "secret-app-1", "app").await?;
    rows(&client, &format!("create table if not exists {table} (n int)")).await?;
    Ok(())
}

#[tokio::test]
async fn create_survives_a_kill_at_every_step() -> Result<()> {
    let mut stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let first = api.order_and_await("first").await?;
    let steps = steps(&api, &first, "create_instance").await?;
    remove(&stack, &api, &first).await?;
    for point in points("create_instance", &steps) {
        arm(&mut stack, &point)?;
        let id = api.order("swept").await?;
        die_and_carry_on(&mut stack, &point).await?;
        assert_well(&stack, &api, &id, "t").await.with_context(|| point.clone())?;
        ensure!(stack.instances() == [id.clone()], "{point}: hosts {:?}", stack.instances());
        remove(&stack, &api, &id).await.with_context(|| point.clone())?;
    }
    Ok(())
}

#[tokio::test]
async fn create_that_fails_at_any_step_leaves_a_fault_and_nothing_else() -> Result<()> {
    let mut stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let first = api.order_and_await("first").await?;
    let steps = steps(&api, &first, "create_instance").await?;
    remove(&stack, &api, &first).await?;
    for step in steps {
        arm(&mut stack, &format!("operation.create_instance.{step}.after=fail"))?;
        let id = api.order("failing").await?;
        let view = api.await_error(&id).await.with_context(|| step.clone())?;
        let message = view["fault"]["message"].as_str().unwrap_or_default();
        ensure!(message.contains(&step), "the fault does not name the step {step}: {view}");
        ensure!(view["operating_status"] == "" && view["ip"].is_null(), "{step}: {view}");
        let operations = api.await_operations(&id).await?;
        ensure!(operations[0]["status"] == "failed", "{step}: {operations}");
        leftovers::assert_nothing_of(&id, &stack.host(&id), &[]).with_context(|| step.clone())?;
        remove(&stack, &api, &id).await.with_context(|| step.clone())?;
    }
    Ok(())
}

#[tokio::test]
async fn restart_and_accounts_survive_a_kill_at_every_step() -> Result<()> {
    let mut stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("swept").await?;
    let action = format!("/instances/{id}/action");
    assert_eq!(api.post(&action, &json!({"restart": {}})).await?.status, 202);
    for point in points("restart_instance", &steps(&api, &id, "restart_instance").await?) {
        arm(&mut stack, &point)?;
        api.await_active(&id).await?;
        assert_eq!(api.post(&action, &json!({"restart": {}})).await?.status, 202, "{point}");
        die_and_carry_on(&mut stack, &point).await?;
        assert_well(&stack, &api, &id, "t").await.with_context(|| point.clone())?;
    }

    let databases = format!("/instances/{id}/databases");
    assert_eq!(api.post(&databases, &json!({"databases": [{"name": "d0"}]})).await?.status, 202);
    for (n, point) in points("change_accounts", &steps(&api, &id, "change_accounts").await?).iter().enumerate() {
        arm(&mut stack, point)?;
        api.await_active(&id).await?;
        let user = json!({"users": [{"name": format!("u{n}"), "password": "secret-u", "databases": [{"name": "d0"}]}]});
        assert_eq!(api.post(&format!("/instances/{id}/users"), &user).await?.status, 202, "{point}");
        die_and_carry_on(&mut stack, point).await?;
        assert_well(&stack, &api, &id, "t").await.with_context(|| point.clone())?;
        let view = api.instance(&id).await?;
        connect(&view, &format!("u{n}"), "secret-u", "d0").await.with_context(|| point.clone())?;
    }
    Ok(())
}

#[tokio::test]
async fn delete_survives_a_kill_at_every_step() -> Result<()> {
    let mut stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let mut id = api.order_and_await("swept").await?;
    // The instance is gone with its operations: the list is the service's own, taken while it goes.
    let points = points("delete_instance", &delete_steps(&api, &id).await?);
    for point in points {
        id = api.order_and_await("swept").await?;
        arm(&mut stack, &point)?;
        api.await_active(&id).await?;
        let pids = leftovers::processes(&id);
        assert_eq!(api.delete(&format!("/instances/{id}")).await?.status, 202, "{point}");
        die_and_carry_on(&mut stack, &point).await?;
        api.await_gone(&id).await.with_context(|| format!("{point}\n{}", stack.log_end()))?;
        leftovers::assert_nothing_of(&id, &stack.host(&id), &pids).with_context(|| point.clone())?;
    }
    ensure!(stack.instances().is_empty(), "hosts {:?}", stack.instances());
    ensure!(api.instance(&id).await?.is_null(), "the row is left");
    Ok(())
}

/// Deletes the instance and returns the steps of that.
async fn delete_steps(api: &Api, id: &str) -> Result<Vec<String>> {
    assert_eq!(api.delete(&format!("/instances/{id}")).await?.status, 202);
    let seen = poll(
        "the delete operation",
        Duration::from_secs(10),
        async || Ok(api.get(&format!("/instances/{id}/operations")).await?.body["operations"][0].clone()),
        |operation: &Value| operation["kind"] == "delete_instance",
    )
    .await?;
    api.await_gone(id).await?;
    let steps = seen["steps"].as_array().context("steps")?;
    Ok(steps.iter().filter_map(|step| step["name"].as_str().map(str::to_owned)).collect())
}

/// Deletes the instance and looks for what is left.
async fn remove(stack: &Stack, api: &Api, id: &str) -> Result<()> {
    let pids = leftovers::processes(id);
    assert_eq!(api.delete(&format!("/instances/{id}")).await?.status, 202);
    api.await_gone(id).await?;
    leftovers::assert_nothing_of(id, &stack.host(id), &pids)
}

#[tokio::test]
async fn thirty_kills_at_random_instants_change_nothing() -> Result<()> {
    let seed: u64 = match std::env::var("TROVE_SEED") {
        Ok(text) => text.parse().context("TROVE_SEED")?,
        Err(_) => rand::random(),
    };
    println!("seed {seed}; the same again with TROVE_SEED={seed}");
    let mut instants = SplitMix(seed);
    let mut stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    for round in 0..30 {
        let (kind, after) = (round % 4, Duration::from_millis(instants.next() % 1500));
        let context = format!("seed {seed}, round {round}, kind {kind}, killed after {after:?}");
        random_round(&mut stack, &api, kind, after).await.context(context)?;
    }
    Ok(())
}

async fn random_round(stack: &mut Stack, api: &Api, kind: u64, after: Duration) -> Result<()> {
    if kind == 0 {
        let id = api.order("random").await?;
        tokio::time::sleep(after).await;
        stack.kill_and_run()?;
        return assert_well(stack, api, &id, "t").await;
    }
    let list = api.get("/instances").await?.body;
    let id = list["instances"][0]["id"].as_str().context("an instance from round 0")?.to_owned();
    let path = format!("/instances/{id}");
    let accepted = match kind {
        1 => api.post(&format!("{path}/action"), &json!({"restart": {}})).await?,
        2 => api.post(&format!("{path}/databases"), &json!({"databases": [{"name": "random"}]})).await?,
        _ => api.delete(&path).await?,
    };
    ensure!(accepted.status == 202, "{accepted:?}");
    let pids = leftovers::processes(&id);
    tokio::time::sleep(after).await;
    stack.kill_and_run()?;
    if kind == 3 {
        api.await_gone(&id).await?;
        return leftovers::assert_nothing_of(&id, &stack.host(&id), &pids);
    }
    assert_well(stack, api, &id, "t").await
}

/// A small generator whose whole state is the seed that is printed.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[tokio::test]
async fn a_kill_between_the_two_lines_of_an_order_leaves_all_or_nothing() -> Result<()> {
    let mut stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    for (side, ordered) in [("before_commit", 0), ("after_commit", 1)] {
        arm(&mut stack, &format!("enqueue.create_instance.{side}=kill"))?;
        assert!(api.post("/instances", &order_body("cut")).await.is_err(), "the controller answered");
        stack.await_death(Duration::from_secs(10)).await?;
        stack.run(&Failpoints::default())?;
        let list = api.get("/instances").await?.body;
        let instances = list["instances"].as_array().context("instances")?;
        assert_eq!(instances.len(), ordered, "{side}: {list}");
        if let Some(id) = instances.first().and_then(|view| view["id"].as_str()) {
            assert_well(&stack, &api, id, "t").await?;
        }
    }
    Ok(())
}
