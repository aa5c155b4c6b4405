//! Measures the creation of real instances, without the engine's own share, and the memory of a real agent.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use trove_tests::Api;

use crate::process;
use crate::service::Service;
use crate::table::{Row, Table, median, number};

const TIMES: usize = 10;
const TARGET_S: f64 = 0.3;
const AGENT_MIB: f64 = 20.0;
/// Time in which an agent has probed its engine and sent heartbeats.
const AGENT_RESTS: Duration = Duration::from_secs(12);

/// Measurements of one creation.
struct Created {
    /// From the request to the end of the operation, seconds.
    whole_s: f64,
    /// The engine's share of it, seconds.
    engine_s: f64,
}

/// Measures creations of each engine, one after the other.
pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let service = Service::start_with_all_engines().await?;
    let api = service.login().await?;
    let user = |name: &str| json!({"name": name, "password": "secret-app-1", "databases": [{"name": "app"}]});
    let with_database = |datastore: &str, user: Value| {
        json!({"flavorRef": "1", "volume": {"size": 1}, "datastore": {"type": datastore},
            "databases": [{"name": "app"}], "users": [user]})
    };
    let redis = json!({"flavorRef": "1", "volume": {"size": 1}, "datastore": {"type": "redis"},
        "users": [{"name": "app", "password": "secret-app-1"}]});
    for (engine, order) in [
        ("PostgreSQL", with_database("postgresql", user("app"))),
        ("Redis", redis),
        ("MariaDB", with_database("mariadb", user("app"))),
        ("MongoDB", with_database("mongodb", user("app.app"))),
    ] {
        let mut all = Vec::new();
        let mut ids = Vec::new();
        for n in 0..TIMES {
            let (id, created) = create(&service, &api, &order, &format!("created-{n}")).await?;
            all.push(created);
            ids.push(id);
        }
        // Delete all instances at the end: for each new file, ext4 skips the recently deleted inodes one by one, and a
        // thousand of them double the time of the next creation.
        let (last, others) = ids.split_last().context("no create")?;
        for id in others {
            delete(&api, id).await?;
        }
        tokio::time::sleep(AGENT_RESTS).await;
        let agent_mib = agent_mib_of(last)?;
        delete(&api, last).await?;
        let outside = median(all.iter().map(|created| created.whole_s - created.engine_s).collect());
        let how = format!(
            "median of {TIMES}, one after the other: from the POST until its operation is told to be done (long poll), less \
             what the agent's log says that the engine itself took to be initialised, to answer (twice where its first \
             start is private) and to stop"
        );
        let mut row =
            Row::new(format!("create of {engine} outside of the engine"), outside, "s", how).at_most(TARGET_S);
        let middle = |part: fn(&Created) -> f64| number(median(all.iter().map(part).collect()));
        row.aside = format!("whole {} s, engine {} s", middle(|one| one.whole_s), middle(|one| one.engine_s));
        table.add(row);
        let how = "PSS of the only agent that runs, some heartbeats after its engine answered";
        table.add(Row::new(format!("agent of {engine}: memory"), agent_mib, "MiB", how).at_most(AGENT_MIB));
    }
    Ok(())
}

async fn create(service: &Service, api: &Api, order: &Value, name: &str) -> Result<(String, Created)> {
    let mut order = order.clone();
    order["name"] = json!(name);
    let begun = Instant::now();
    let answer = api.post("/instances", &json!({"instance": order})).await?;
    ensure!(answer.status == 200, "the order {name}: {answer:?}");
    let id = answer.body["instance"]["id"].as_str().context("the instance's id")?.to_owned();
    let mut since = String::new();
    loop {
        let answer = api.get(&format!("/instances/{id}/operations?wait=60{since}")).await?;
        match answer.body["operations"][0]["status"].as_str() {
            Some("done") => break,
            Some("queued" | "running") => {}
            _ => anyhow::bail!("the create {name}: {answer:?}\n{}", service.stack.log_end()),
        }
        since = format!("&since={}", answer.body["version"].as_str().context("a version")?);
    }
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
