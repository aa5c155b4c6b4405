//! The agent is killed at each stage of each job. It is started again, adopts or starts the engine, and the job ends as
//! if nothing had happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trove_tests::{Engine, Failpoints, depth, leftovers, poll};

use crate::subject::Subject;
use crate::{SWEPT, quoted_after, sources};

/// The failpoint between the start of the engine and its record.
const STARTED: &str = "agent.engine.started";

/// Failpoints of an engine with a private first start: MongoDB.
const PRIVATE: [&str; 2] = ["agent.prepare.before_secure", "agent.prepare.after_secure"];

/// Failpoints between the arrival of an assignment and its answer.
const ASSIGNED: [&str; 7] = [
    "agent.assign.before_store",
    "agent.assign.after_store",
    "agent.parameters.after_check",
    "agent.parameters.after_write",
    "agent.parameters.after_reload",
    "agent.parameters.after_apply",
    "agent.assign.before_reply",
];

/// Longer than an agent that adopts an engine takes to tell it what room its volume has, by the same way as an assignment.
const SETTLED: Duration = Duration::from_secs(2);

/// Failpoints between the objects of a backup.
const STORED: [&str; 2] = ["agent.backup.segment_stored", "agent.backup.before_manifest"];

/// Those of shipping a log and of replaying it, which `recovery.rs` reaches.
const OF_LOGS: [&str; 4] =
    ["agent.logs.stored", "agent.logs.recorded", "agent.replay.before_replay", "agent.replay.after_replay"];

/// The agent's jobs in a kind of operation, and whether the engine is started.
fn part(kind: &str) -> (&'static [&'static str], bool) {
    match kind {
        "create_instance" => (&["prepare"], true),
        "restore_instance" => (&["restore"], false),
        "verify_backup" => (&["check"], false),
        "restart_instance" => (&["restart"], true),
        "change_accounts" => (&["change_accounts"], false),
        "create_backup" => (&["backup"], false),
        "stop_instance" | "delete_instance" => (&["stop"], false),
        "resize_flavor" | "upgrade_instance" | "reboot_instance" => (&[], true),
        // Only the driver works; the engine keeps running.
        _ => (&[], false),
    }
}

fn agents_sources() -> Result<Vec<String>> {
    let rooms = ["", "/backup", "/logs", "/service", "/supervisor", "/work"];
    let folders: Vec<String> = rooms.iter().map(|room| format!("agent/src{room}")).collect();
    let folders = folders.iter().map(String::as_str);
    Ok(folders.map(sources).collect::<Result<Vec<_>>>()?.concat())
}

/// The stages of each job, read from `agent/src/work.rs`. Of numbered stages only the first is listed.
fn stages() -> Result<BTreeMap<String, Vec<String>>> {
    let mut jobs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in agents_sources()? {
        for call in text.split(".stage(\"").skip(1) {
            let (job, rest) = call.split_once("\", ").context("a stage")?;
            let stage = rest.strip_prefix('"').and_then(|rest| rest.split('"').next()).unwrap_or("0");
            jobs.entry(job.to_owned()).or_default().push(stage.to_owned());
        }
    }
    Ok(jobs)
}

fn points(kind: &str) -> Result<Vec<String>> {
    let (jobs, starts) = part(kind);
    let mut points: Vec<String> = starts.then(|| STARTED.to_owned()).into_iter().collect();
    for job in jobs {
        let stages = stages()?.remove(*job).with_context(|| format!("stages of {job}"))?;
        let both = |stage: &String| ["before", "after"].map(|side| format!("agent.{job}.{side}_{stage}"));
        points.extend(stages.iter().flat_map(both));
    }
    if kind == "create_backup" {
        points.extend(STORED.map(str::to_owned));
    }
    if kind == "apply_configuration" {
        points.extend(ASSIGNED.map(str::to_owned));
    }
    Ok(points)
}

#[test]
fn every_point_of_an_agent_is_swept() -> Result<()> {
    let mut swept: BTreeSet<String> = OF_LOGS.map(str::to_owned).into();
    for kind in SWEPT {
        swept.extend(points(kind)?);
    }
    for (job, stages) in stages()? {
        for stage in stages {
            let point = format!("agent.{job}.before_{stage}");
            ensure!(swept.contains(&point), "{point}: no kind of operation is said to reach it");
        }
    }
    for text in agents_sources()? {
        for point in quoted_after(&text, "pass(\"") {
            ensure!(swept.contains(point) || PRIVATE.contains(&point), "{point} is not swept");
        }
    }
    Ok(())
}

pub(crate) async fn sweep(kind: &str, usual: Engine) -> Result<()> {
    let points = points(kind)?;
    if points.is_empty() {
        return Ok(());
    }
    for engine in depth::engines(usual) {
        let mut subject = Subject::start(engine).await?;
        let private = PRIVATE.iter().filter(|_| engine == Engine::MongoDb && kind == "create_instance");
        for point in points.iter().map(String::as_str).chain(private.copied()) {
            die_at(&mut subject, kind, point).await.with_context(|| format!("{engine:?}, {point}"))?;
        }
    }
    Ok(())
}

async fn die_at(subject: &mut Subject, kind: &str, point: &str) -> Result<()> {
    subject.prepare(kind).await?;
    let fired = subject.stack.fired()?.join(point);
    if ASSIGNED.contains(&point) {
        // What says that it has fired keeps it from firing until the agent has nothing else to tell the engine.
        std::fs::create_dir_all(subject.stack.fired()?)?;
        std::fs::File::create_new(&fired)?;
        arm_agents(subject, kind, point).await?;
        tokio::time::sleep(SETTLED).await;
        std::fs::remove_file(&fired)?;
    } else {
        arm_agents(subject, kind, point).await?;
    }
    subject.ask(kind).await?;
    subject.assert_done(kind).await?;
    ensure!(fired.exists(), "the failpoint was never reached");
    Ok(())
}

/// Runs the controller with a failpoint for agents. A running agent does not get it, so it is restarted by the
/// controller's driver.
async fn arm_agents(subject: &mut Subject, kind: &str, point: &str) -> Result<()> {
    subject.stack.kill()?;
    subject.stack.run(&Failpoints { controller: None, agent: Some(format!("{point}=kill")) })?;
    if ["create_instance", "restore_instance", "verify_backup"].contains(&kind) {
        return Ok(());
    }
    let id = subject.id()?;
    let before = leftovers::agents(id);
    for pid in &before {
        kill(Pid::from_raw(*pid), Signal::SIGKILL)?;
    }
    let other = |pids: &Vec<i32>| pids.len() == 1 && !before.contains(&pids[0]);
    poll("another agent", Duration::from_secs(20), async || Ok(leftovers::agents(id)), other).await?;
    subject.await_usable().await.map(|_| ())
}
