//! Programs that a tenant starts from the shell in his engine, against those who end them and against the machine.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trove_tests::{leftovers, poll};

use super::accounts::Neighbours;
use super::postgresql::has_root;

const WAIT: Duration = Duration::from_secs(90);
/// So that this machine has no trouble with those who multiply.
const BOUND: &str = "64";

/// The files of the control groups of an instance's engine that have this name.
fn group_files(instance: &str, name: &str) -> Vec<PathBuf> {
    let groups = leftovers::directories(instance).into_iter().filter(|group| group.ends_with(instance));
    groups.map(|group| group.join(name)).filter(|file| file.exists()).collect()
}

#[tokio::test]
async fn who_stops_and_multiplies_is_deleted_all_the_same() -> Result<()> {
    if !has_root() {
        println!("skipped: only root gives engines accounts of their own");
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let limits = group_files(&it.mine, "pids.max");
    ensure!(!limits.is_empty(), "the instance's processes are not counted");
    for file in limits {
        fs::write(file, BOUND)?;
    }
    let storm = "sleep 3; if (fork) { sleep 2; while (1) { kill q(STOP), -1 } } else { while (1) { fork } }";
    it.run(&format!("setsid perl -e '{storm}' >/dev/null 2>&1 </dev/null &")).await?;
    let all = async || Ok(leftovers::processes(&it.mine));
    let pids = poll("a storm", WAIT, all, |all| all.len() > 32).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    ensure!(it.api.delete(&format!("/instances/{}", it.mine)).await?.status == 202);
    it.api.await_gone(&it.mine).await?;
    leftovers::assert_nothing_of(&it.mine, &it.stack.host(&it.mine), &pids)?;
    it.assert_other_is_well().await
}

#[tokio::test]
async fn who_uses_up_his_processes_and_memory_keeps_no_agent_dead() -> Result<()> {
    if !has_root() {
        println!("skipped: only root gives engines accounts of their own");
        return Ok(());
    }
    let it = Neighbours::new().await?;
    for file in group_files(&it.mine, "pids.max") {
        fs::write(file, BOUND)?;
    }
    // Each sleeps, and so does the last one, which may make no other.
    it.run("setsid perl -e 'while (1) { fork or sleep 600 }' >/dev/null 2>&1 </dev/null &").await?;
    let all = async || Ok(leftovers::processes(&it.mine).len());
    poll("all processes that there may be", WAIT, all, |all| *all > 60).await?;
    let before = leftovers::agents(&it.mine);
    kill(Pid::from_raw(before[0]), Signal::SIGKILL)?;
    let ask = async || Ok(leftovers::agents(&it.mine));
    poll("another agent", WAIT, ask, |now| now.len() == 1 && *now != before).await?;
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", leftovers::agents(&it.mine)[0]))?;
    ensure!(groups.contains(&format!("{}.agent", it.mine)), "{groups}");
    let engines = fs::read_to_string(format!("/proc/{}/cgroup", it.my_engine))?;
    ensure!(engines.contains(&it.mine) && !engines.contains(".agent"), "{engines}");
    // It ends them all, and starts the engine among none.
    let restart = serde_json::json!({ "restart": {} });
    ensure!(it.api.post(&format!("/instances/{}/action", it.mine), &restart).await?.status == 202);
    let well = |view: &serde_json::Value| view["status"] == "ACTIVE" && view["operating_status"] == "HEALTHY";
    poll("an engine that is well", WAIT, async || it.api.instance(&it.mine).await, well).await?;
    ensure!(leftovers::engines(&it.mine) != [it.my_engine], "it is the engine of before");
    it.assert_other_is_well().await
}
