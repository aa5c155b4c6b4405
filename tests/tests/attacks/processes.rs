//! Programs that a tenant starts from the shell in his engine, against those who end them and against the machine.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use trove_tests::leftovers;

use super::accounts::Neighbours;
use super::postgresql::has_root;

/// So that this machine has no trouble with those who multiply.
const BOUND: &str = "64";

/// The files of an instance's control groups that have this name.
fn group_files(instance: &str, name: &str) -> Vec<PathBuf> {
    leftovers::directories(instance).into_iter().map(|group| group.join(name)).filter(|file| file.exists()).collect()
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
