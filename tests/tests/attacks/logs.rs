//! Attacks by a superuser of PostgreSQL on the log of writes of an instance, which the agent reads where a tenant writes.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::{Value, json};
use trove_tests::{APP, connect, has_root_or_skips, leftovers, poll, root, rows};

use super::neighbours::Neighbours;

const LIMIT: Duration = Duration::from_secs(120);

impl Neighbours {
    /// Whose log of writes is shipped each second.
    async fn shipping() -> Result<Self> {
        let short = ["TROVE_BACKUPS__LOG_INTERVAL", "TROVE_BACKUPS__LOG_IDLE_INTERVAL"];
        let it = Self::with(short.map(|name| (name.to_owned(), "1s".to_owned())).into()).await?;
        for id in [&it.mine, &it.other] {
            let keep = json!({"recovery_window": {"keep_seconds": 7200}});
            let path = format!("/instances/{id}/recovery-window");
            let kept = it.api.send(Method::PUT, &path, Some(&keep)).await?;
            ensure!(kept.status == 200, "{kept:?}");
            it.await_covered(id).await?;
        }
        Ok(it)
    }

    /// How often the agent has said that something is wrong with its log of writes.
    fn refusals(&self) -> Result<usize> {
        let log = std::fs::read_to_string(self.stack.host(&self.mine).join("log/agent.log"))?;
        Ok(log.lines().filter(|line| line.contains("is not shipped") || line.contains("has a gap")).count())
    }

    /// Waits until it has said so once more.
    async fn await_refusal(&self, before: usize) -> Result<()> {
        poll("that the agent meets it", LIMIT, async || self.refusals(), |now| *now > before).await.map(drop)
    }

    async fn window(&self, id: &str) -> Result<Value> {
        let answer = self.api.get(&format!("/instances/{id}/recovery-window")).await?;
        Ok(answer.body["recovery_window"].clone())
    }

    /// Waits until whatever was acknowledged before this is stored.
    async fn await_covered(&self, id: &str) -> Result<()> {
        let now = SystemTime::now() + Duration::from_secs(1);
        let wanted = humantime::format_rfc3339_seconds(now).to_string();
        let is_there = |window: &Value| window["covered"].as_str().is_some_and(|covered| *covered >= *wanted);
        let found = poll("that the log is stored", LIMIT, async || self.window(id).await, is_there).await;
        found.map(drop).with_context(|| self.stack.log_end())
    }
}

/// Who reads a file of the log while a tenant replaces it reads what the tenant may read, or nothing.
#[tokio::test]
async fn what_a_superuser_puts_in_place_of_his_log_is_neither_followed_nor_waited_for() -> Result<()> {
    if !has_root_or_skips("only root runs a service that hands out the superuser") {
        return Ok(());
    }
    let it = Neighbours::shipping().await?;
    let (agent, client) = (leftovers::agents(&it.mine), root(&it.api, &it.mine, "app").await?);
    let pid = Pid::from_raw(*agent.first().context("an agent")?);
    rows(&client, "create table t (n int)").await?;
    for (what, plant) in [
        ("a link", "ln -s /etc/shadow $f"),
        ("a link to what may be read", "ln -s /proc/self/mem $f"),
        ("a pipe", "mkfifo $f"),
        ("a directory", "mkdir $f"),
        ("a huge file", "truncate -s 100G $f"),
        ("a short file", "echo x > $f"),
        ("a second name", "cp kept $f; ln $f second"),
        ("nothing", "true"),
    ] {
        // It does not read meanwhile.
        kill(pid, Signal::SIGSTOP)?;
        rows(&client, "insert into t values (1)").await?;
        let file = rows(&client, "select pg_walfile_name(pg_current_wal_lsn())").await?.concat();
        rows(&client, "select pg_switch_wal()").await?;
        it.run(&format!("cd pg_wal; f={file}; rm -rf kept second; mv $f kept && {plant}")).await?;
        let before = it.refusals()?;
        kill(pid, Signal::SIGCONT)?;
        it.await_refusal(before).await.with_context(|| what.to_owned())?;
        it.run(&format!("cd pg_wal; rm -rf second {file}")).await?;
        it.await_covered(&it.mine).await.with_context(|| what.to_owned())?;
    }
    ensure!(leftovers::agents(&it.mine) == agent, "the agent was started again");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the agent's memory")?;
    let kib: u64 = peak.split_whitespace().next().context("a number")?.parse()?;
    ensure!(kib < 200 * 1024, "the agent took {kib} KiB");
    it.await_covered(&it.other).await?;
    it.assert_other_is_well().await
}

/// Functions that the agent asks, replaced by the tenant's, and a slot that is not the agent's any more.
#[tokio::test]
async fn what_a_superuser_answers_of_his_log_ends_no_agent() -> Result<()> {
    if !has_root_or_skips("only root runs a service that hands out the superuser") {
        return Ok(());
    }
    let it = Neighbours::shipping().await?;
    let agent = leftovers::agents(&it.mine);
    let client = root(&it.api, &it.mine, "postgres").await?;
    rows(&client, "set allow_system_table_mods = on").await?;
    for lsn in ["FFFFFFFF/FFFFFFFF", "FFFFFFFF/FF000000", "0/0"] {
        let before = it.refusals()?;
        for name in ["pg_current_wal_insert_lsn", "pg_current_wal_flush_lsn"] {
            rows(&client, &format!("update pg_proc set proname = '{name}_true' where proname = '{name}'")).await?;
            let made = "returns pg_lsn language sql as";
            rows(&client, &format!("create function pg_catalog.{name}() {made} 'select ''{lsn}''::pg_lsn'")).await?;
        }
        rows(&client, "select pg_drop_replication_slot(slot_name) from pg_get_replication_slots() where not active")
            .await?;
        it.await_refusal(before).await.with_context(|| lsn.to_owned())?;
        for name in ["pg_current_wal_insert_lsn", "pg_current_wal_flush_lsn"] {
            rows(&client, &format!("drop function pg_catalog.{name}()")).await?;
            rows(&client, &format!("update pg_proc set proname = '{name}' where proname = '{name}_true'")).await?;
        }
        it.await_covered(&it.mine).await.with_context(|| lsn.to_owned())?;
    }
    for slots in [
        "select pg_drop_replication_slot('trove_log')",
        "select pg_drop_replication_slot('trove_log'); select pg_create_physical_replication_slot('trove_log')",
        "select pg_replication_slot_advance('trove_log', pg_current_wal_flush_lsn())",
    ] {
        rows(&client, slots).await?;
        rows(&client, "create table if not exists t (n int); insert into t values (1)").await?;
        it.await_covered(&it.mine).await.with_context(|| slots.to_owned())?;
    }
    ensure!(leftovers::agents(&it.mine) == agent, "the agent was started again");
    // Switched off, the server keeps nothing.
    let off = json!({"recovery_window": {"keep_seconds": null}});
    it.api.send(Method::PUT, &format!("/instances/{}/recovery-window", it.mine), Some(&off)).await?;
    let slots = async || Ok(rows(&client, "select slot_name from pg_get_replication_slots()").await?);
    poll("that no slot is left", LIMIT, slots, Vec::is_empty).await?;
    let view = it.api.instance(&it.mine).await?;
    ensure!(view["fault"].is_null(), "{view}");
    rows(&connect(&view, APP.0, APP.1, "app").await?, "select 1").await?;
    it.assert_other_is_well().await
}
