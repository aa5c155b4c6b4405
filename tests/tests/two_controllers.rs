//! Two controllers on one PostgreSQL. They share work and agents; one of them is stopped, restarted, suspended for too
//! long, or has a wrong clock.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use trove_tests::{Api, Database, Failpoints, Stack, StackOptions, connect, leftovers, order_body, poll, rows};

const SOON: Duration = Duration::from_secs(60);

/// Two running controllers and their database. Leases are short, to keep the tests short.
struct Pair {
    one: Stack,
    two: Stack,
    // Declared after the controllers, so that it is dropped after them.
    database: Database,
}

fn options(database: &Database, environment: Vec<(String, String)>) -> StackOptions {
    let config = "[operations]\nlease = \"3s\"\n".to_owned();
    StackOptions { config, shared: Some(database.shared()), environment, ..StackOptions::default() }
}

impl Pair {
    async fn start() -> Result<Self> {
        let database = Database::start()?;
        let one = Stack::start_with(options(&database, Vec::new())).await?;
        let mut two = Stack::prepare(options(&database, Vec::new()))?;
        two.run(&Failpoints::default())?;
        Ok(Self { one, two, database })
    }

    async fn apis(&self) -> Result<(Api, Api)> {
        Ok((self.one.login("trove").await?, self.two.login_as_known_to(&self.one, "trove").await?))
    }
}

/// Whether a controller reaches the agent of an instance over its own connection.
async fn reached(api: &Api, id: &str) -> Result<bool> {
    Ok(api.get(&format!("/instances/{id}/databases")).await?.status == 200)
}

async fn await_reached(api: &Api, id: &str) -> Result<()> {
    poll("the agent to be reached", SOON, async || reached(api, id).await, |reached| *reached).await.map(|_| ())
}

async fn started_at(api: &Api, id: &str) -> Result<String> {
    let view = api.instance(id).await?;
    let client = connect(&view, "app", "secret-app-1", "app").await?;
    rows(&client, "select pg_postmaster_start_time()").await?.pop().context("a row")
}

#[tokio::test]
async fn either_controller_does_everything_and_one_may_leave_and_come_back() -> Result<()> {
    let mut pair = Pair::start().await?;
    let (one, two) = pair.apis().await?;
    let id = one.order("first").await?;
    two.await_active(&id).await.with_context(|| pair.one.log_end())?;
    await_reached(&one, &id).await.context("by the first")?;
    await_reached(&two, &id).await.context("by the second")?;

    pair.one.kill()?;
    ensure!(two.instance(&id).await?["operating_status"] == "HEALTHY", "what one does not hear, the other does");
    let action = format!("/instances/{id}/action");
    ensure!(two.post(&action, &json!({"restart": {}})).await?.status == 202, "a restart by the one that is left");
    two.await_active(&id).await?;
    let second = two.order("second").await?;
    two.await_active(&second).await.with_context(|| pair.two.log_end())?;

    pair.one.run(&Failpoints::default())?;
    let one = pair.one.login("trove").await?;
    await_reached(&one, &id).await.context("by the one that came back")?;
    await_reached(&one, &second).await.context("an agent that was made meanwhile")?;
    for id in [&id, &second] {
        ensure!(leftovers::agents(id).len() == 1 && leftovers::engines(id).len() == 1, "one agent and one engine");
        ensure!(one.delete(&format!("/instances/{id}")).await?.status == 202, "delete");
        two.await_gone(id).await?;
        leftovers::assert_nothing_of(id, &pair.one.host(id), &[])?;
    }
    // The other controller does not restart the agent of a deleted host.
    ensure!(pair.one.instances().is_empty(), "hosts {:?}", pair.one.instances());
    Ok(())
}

#[tokio::test]
async fn two_that_start_at_the_same_moment_on_an_empty_database_are_one_service() -> Result<()> {
    let database = Database::start()?;
    let mut one = Stack::prepare(options(&database, Vec::new()))?;
    let mut two = Stack::prepare(options(&database, Vec::new()))?;
    std::thread::scope(|scope| {
        let first = scope.spawn(|| one.run(&Failpoints::default()));
        two.run(&Failpoints::default())?;
        first.join().map_err(|_| anyhow::anyhow!("the thread of the first one ended"))?
    })?;
    let (maker, other) = if one.clouds_yaml().exists() { (one, two) } else { (two, one) };
    ensure!(maker.clouds_yaml().exists() && !other.clouds_yaml().exists(), "one of them makes the users");
    for cloud in ["trove", "trove-admin"] {
        maker.login(cloud).await.with_context(|| format!("{cloud} at the one that made it"))?;
        other.login_as_known_to(&maker, cloud).await.with_context(|| format!("{cloud} at the other"))?;
    }
    maker.await_datastore().await?;
    let (one, two) = (maker.login("trove").await?, other.login_as_known_to(&maker, "trove").await?);
    let id = one.order_and_await("shared").await.with_context(|| maker.log_end())?;
    // The authorities are shared, so it does not matter which controller signed the agent's certificate.
    await_reached(&one, &id).await.with_context(|| maker.log_end())?;
    await_reached(&two, &id).await.with_context(|| other.log_end())?;
    let connection = format!("/instances/{id}/connection");
    let (first, second) = (one.get(&connection).await?.body, two.get(&connection).await?.body);
    let authority = first["connection"]["ca_pem"].as_str().context("the engines' authority")?;
    ensure!(second["connection"]["ca_pem"] == authority, "{first} {second}");
    Ok(())
}

#[tokio::test]
async fn a_controller_that_joins_is_made_known_to_every_agent() -> Result<()> {
    let database = Database::start()?;
    let one = Stack::start_with(options(&database, Vec::new())).await?;
    let id = one.login("trove").await?.order_and_await("there before").await?;
    let mut two = Stack::prepare(options(&database, Vec::new()))?;
    two.run(&Failpoints::default())?;
    let api = two.login_as_known_to(&one, "trove").await?;
    // Sooner than the reconcilers' interval of a minute.
    let known =
        poll("the agent to be reached", Duration::from_secs(30), async || reached(&api, &id).await, |known| *known);
    known.await.with_context(|| one.log_end())?;
    Ok(())
}

/// The first controller stops itself at `point` while it executes the requested operation. The second one takes the
/// operation over and ends it. Then the first one is resumed.
async fn sleep_at(pair: &mut Pair, point: &str, id: &str, path: &str, body: &serde_json::Value) -> Result<()> {
    pair.one.kill()?;
    // Stop the second controller meanwhile, so that the first one claims the operation.
    pair.two.signal(Signal::SIGSTOP)?;
    pair.one.run(&Failpoints { controller: Some(format!("{point}=stop")), agent: None })?;
    let one = pair.one.login("trove").await?;
    await_reached(&one, id).await?;
    let accepted = one.post(path, body).await?;
    ensure!(accepted.status == 202, "{point}: {accepted:?}");
    let store = pair.database.connect().await?;
    let stat = format!("/proc/{}/stat", pair.one.pid()?);
    let stopped = async || Ok(std::fs::read_to_string(&stat)?);
    poll("the first controller to stop", SOON, stopped, |stat| stat.contains(") T ")).await?;
    pair.two.signal(Signal::SIGCONT)?;
    let active = "select count(*) from operation where finished is null";
    poll("the second controller to end it", SOON, async || rows(&store, active).await, |rows| rows[0] == "0").await?;
    let facts = "select (select string_agg(id || status || coalesce(finished, 0), ',' order by seq) from operation), \
                 (select string_agg(operation_id || n || status || coalesce(finished, 0), ',' order by operation_id, n) \
                 from operation_step)";
    let (ended, engine) = (rows(&store, facts).await?, leftovers::engines(id));
    pair.one.signal(Signal::SIGCONT)?;
    let log = pair.one.log();
    let woken = async || Ok(std::fs::read_to_string(&log)?);
    poll("the first one's word", SOON, woken, |text| text.contains("the lease is")).await.context(point.to_owned())?;
    ensure!(rows(&store, facts).await? == ended, "{point}: the late one has written");
    ensure!(leftovers::engines(id) == engine, "{point}: the late one has restarted the engine");
    ensure!(leftovers::agents(id).len() == 1, "{point}");
    std::fs::remove_file(pair.one.log())?;
    Ok(())
}

#[tokio::test]
async fn a_controller_that_sleeps_through_its_lease_does_nothing_twice() -> Result<()> {
    let mut pair = Pair::start().await?;
    let one = pair.one.login("trove").await?;
    let id = one.order_and_await("slept").await?;
    let action = format!("/instances/{id}/action");
    for side in ["before", "after"] {
        let point = format!("operation.restart_instance.restart_engine.{side}");
        sleep_at(&mut pair, &point, &id, &action, &json!({"restart": {}})).await?;
        let point = format!("operation.change_accounts.apply.{side}");
        let body = json!({"databases": [{"name": format!("slept_{side}")}]});
        sleep_at(&mut pair, &point, &id, &format!("/instances/{id}/databases"), &body).await?;
    }
    let two = pair.two.login_as_known_to(&pair.one, "trove").await?;
    two.await_active(&id).await?;
    let names = two.get(&format!("/instances/{id}/databases")).await?.body.to_string();
    ensure!(names.contains("slept_before") && names.contains("slept_after"), "{names}");
    Ok(())
}

/// Debian's libfaketime, which changes the time that a process sees.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

fn clock(file: &Path) -> Vec<(String, String)> {
    let file = file.display().to_string();
    [
        ("LD_PRELOAD", FAKETIME),
        ("FAKETIME_TIMESTAMP_FILE", &file),
        ("FAKETIME_NO_CACHE", "1"),
        // Only the wall clock can be set by a person or NTP.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// Hour of the last line of a controller's log.
fn time_shown(stack: &Stack) -> Result<u64> {
    let log = stack.log_end();
    let line = log.lines().rev().find(|line| line.as_bytes().get(10) == Some(&b'T')).context("a line with a time")?;
    Ok(line[11..13].parse()?)
}

/// The hour of the day, UTC.
fn hour_of_day() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_secs() / 3600 % 24
}

#[tokio::test]
async fn a_clock_that_jumps_by_an_hour_changes_nothing() -> Result<()> {
    ensure!(Path::new(FAKETIME).exists(), "libfaketime is not installed; make setup installs it");
    let database = Database::start()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("offset");
    std::fs::write(&file, "+0")?;
    let one = Stack::start_with(options(&database, clock(&file))).await?;
    let mut two = Stack::prepare(options(&database, Vec::new()))?;
    two.run(&Failpoints::default())?;
    let api = one.login("trove").await?;
    let other = two.login_as_known_to(&one, "trove").await?;
    let id = api.order_and_await("steady").await?;
    let before = started_at(&api, &id).await?;
    for offset in ["+1h", "-1h"] {
        std::fs::write(&file, offset)?;
        for api in [&api, &other] {
            let view = api.instance(&id).await?;
            ensure!(view["status"] == "ACTIVE" && view["operating_status"] == "HEALTHY", "{offset}: {view}");
            ensure!(reached(api, &id).await?, "{offset}: the agent is not reached");
        }
        ensure!(started_at(&api, &id).await? == before, "{offset}: the engine was restarted");
        // Enrolment, certificates and leases of a new instance must work with the wrong clock.
        let new = api.create(&order_body(&format!("made-at-{offset}"))).await?;
        api.await_active(&new).await.with_context(|| format!("{offset}: {}", one.log_end()))?;
        await_reached(&api, &new).await.with_context(|| format!("{offset}: {}", one.log_end()))?;
        await_reached(&other, &new).await.with_context(|| format!("{offset}: by the other"))?;
        let shown = time_shown(&one)?;
        ensure!(shown.abs_diff(hour_of_day()) % 22 == 1, "the log does not show the wrong clock: {shown} {offset}");
        let created = api.instance(&new).await?["created"].as_str().context("created")?.to_owned();
        let now =
            rows(&database.connect().await?, "select to_char(now() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24')").await?;
        let earlier = "select to_char((now() - interval '1 minute') at time zone 'utc', 'YYYY-MM-DD\"T\"HH24')";
        let earlier = rows(&database.connect().await?, earlier).await?;
        ensure!(created.starts_with(&now[0]) || created.starts_with(&earlier[0]), "{offset}: created {created}");
    }
    Ok(())
}
