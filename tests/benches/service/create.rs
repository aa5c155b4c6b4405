//! Measures the creation of real instances beside the engine's own bare start, and the memory of a real agent.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use trove_tests::{Api, Engine};

use crate::process;
use crate::service::Service;
use crate::table::{Row, Table, median, note, number};

const TIMES: usize = 10;
const TARGET_S: f64 = 0.3;
const AGENT_MIB: f64 = 20.0;
/// Time in which an agent has probed its engine and sent heartbeats.
const AGENT_RESTS: Duration = Duration::from_secs(12);

/// A datastore, its name for people, and the engine whose orders it takes.
struct Subject(&'static str, &'static str, Engine);

/// What is measured where it is installed.
const SUBJECTS: [Subject; 6] = [
    Subject("postgresql", "PostgreSQL", Engine::PostgreSql),
    Subject("mariadb", "MariaDB", Engine::MariaDb),
    Subject("mysql", "MySQL", Engine::MariaDb),
    Subject("redis", "Redis", Engine::Redis),
    Subject("valkey", "Valkey", Engine::Redis),
    Subject("mongodb", "MongoDB", Engine::MongoDb),
];

/// Measurements of one creation.
struct Created {
    /// From the request until the instance is ACTIVE and HEALTHY, seconds.
    whole_s: f64,
    /// The engine's share of it, seconds.
    engine_s: f64,
}

/// Measures creations of each engine, one after the other.
pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let service = Service::start_with_all_engines().await?;
    let api = service.login().await?;
    let datastores = api.get("/datastores").await?.body;
    let offered: Vec<&str> =
        datastores["datastores"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
    let is_known = |name: &&str| SUBJECTS.iter().any(|subject| subject.0 == *name);
    ensure!(!offered.is_empty() && offered.iter().all(is_known), "measured is not all of {offered:?}");
    for subject in SUBJECTS {
        if offered.contains(&subject.0) {
            measure_one(table, &service, &api, &subject).await.with_context(|| subject.1)?;
        } else {
            note(&format!("skipped: {} is not installed", subject.1));
        }
    }
    Ok(())
}

async fn measure_one(table: &mut Table, service: &Service, api: &Api, subject: &Subject) -> Result<()> {
    let Subject(datastore, name, engine) = subject;
    let mut all = Vec::new();
    let mut ids = Vec::new();
    for n in 0..TIMES {
        let mut order = engine.order(&format!("created-{n}"));
        order["instance"]["datastore"]["type"] = json!(datastore);
        let (id, created) = create(service, api, &order).await?;
        all.push(created);
        ids.push(id);
    }
    // Delete all instances at the end: for each new file, ext4 skips the recently deleted inodes one by one, and a
    // thousand of them double the time of the next creation.
    let (last, others) = ids.split_last().context("no create")?;
    for id in others {
        delete(api, id).await?;
    }
    tokio::time::sleep(AGENT_RESTS).await;
    let agent_mib = agent_mib_of(last)?;
    delete(api, last).await?;
    let mut add = |figure: String, part: fn(&Created) -> f64, how: &str, target: Option<f64>| {
        let times: Vec<f64> = all.iter().map(part).collect();
        let slowest = times.iter().copied().fold(0.0, f64::max);
        let mut row = Row::new(figure, median(times), "s", format!("median of {TIMES}, one after the other: {how}"));
        row.target = target;
        row.aside = format!("the slowest {} s", number(slowest));
        table.add(row);
    };
    let whole =
        "from the POST, until its operation is told to be done (long poll) and the instance is ACTIVE and HEALTHY";
    add(format!("create of {name}"), |one| one.whole_s, whole, None);
    let bare = "what the agent's log says that the engine itself took to be initialised, to answer (twice where its first \
                start is private) and to stop";
    add(format!("bare start of {name}"), |one| one.engine_s, bare, None);
    let outside = "the whole create less the engine's own bare start";
    add(format!("create of {name} outside of the engine"), |one| one.whole_s - one.engine_s, outside, Some(TARGET_S));
    let how = "PSS of the only agent that runs, some heartbeats after its engine answered";
    table.add(Row::new(format!("agent of {name}: memory"), agent_mib, "MiB", how).at_most(AGENT_MIB));
    Ok(())
}

async fn create(service: &Service, api: &Api, order: &Value) -> Result<(String, Created)> {
    let begun = Instant::now();
    let id = api.create(order).await?;
    let mut since = String::new();
    loop {
        let answer = api.get(&format!("/instances/{id}/operations?wait=60{since}")).await?;
        match answer.body["operations"][0]["status"].as_str() {
            Some("done") => break,
            Some("queued" | "running") => {}
            _ => anyhow::bail!("the create {order}: {answer:?}\n{}", service.stack.log_end()),
        }
        since = format!("&since={}", answer.body["version"].as_str().context("a version")?);
    }
    api.await_active(&id).await?;
    let whole_s = begun.elapsed().as_secs_f64();
    let engine_s = engine_s(&service.stack.host(&id).join("log/agent.log"))?;
    Ok((id, Created { whole_s, engine_s }))
}

/// Sum of the engine's times in an agent's log.
fn engine_s(log: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
    let times =
        text.lines().filter_map(|line| line.split_once("elapsed_ms=")?.1.split(' ').next()?.parse::<f64>().ok());
    let times: Vec<f64> = times.collect();
    ensure!(times.len() >= 2, "{} does not say how long the engine took: {text}", log.display());
    Ok(times.iter().sum::<f64>() / 1000.0)
}

fn agent_mib_of(id: &str) -> Result<f64> {
    let agents = trove_tests::leftovers::agents(id);
    ensure!(agents.len() == 1, "the agents of {id}: {agents:?}");
    process::pss_mib(agents[0])
}

async fn delete(api: &Api, id: &str) -> Result<()> {
    let answer = api.delete(&format!("/instances/{id}")).await?;
    ensure!(answer.status == 202, "the delete of {id}: {answer:?}");
    api.await_gone(id).await
}
