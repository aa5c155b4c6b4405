//! Agent, engine and controller are killed at random instants while backups are taken, restored and deleted: each backup is complete
//! and restores, or has failed with its reason; nothing of one that failed or was deleted is left.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use trove_tests::random::{SplitMix, seed};
use trove_tests::{Api, Engine, Stack, depth, each_engine, leftovers, poll, skipped};

/// What is begun anew after a kill takes its time.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Agent,
    Engine,
    Controller,
}

const ALL: [Victim; 3] = [Victim::Agent, Victim::Engine, Victim::Controller];

struct Round {
    stack: Stack,
    api: Api,
    engine: Engine,
    instance: String,
    random: SplitMix,
    /// What was acknowledged.
    written: Vec<String>,
}

impl Round {
    async fn start(engine: Engine, random: SplitMix) -> Result<Self> {
        let stack = Stack::of(engine).await?;
        let api = stack.login("trove").await?;
        let instance = api.create(&engine.order("db1")).await?;
        api.await_active(&instance).await?;
        Ok(Self { stack, api, engine, instance, random, written: Vec::new() })
    }

    /// Kills one of the three after a while; what is not there yet, or not any more, is not.
    async fn strike(&mut self, of: &str, within_ms: u64) -> Result<()> {
        let (victim, after) = (self.random.one_of(&ALL)?, Duration::from_millis(self.random.number() % within_ms));
        tokio::time::sleep(after).await;
        writeln!(std::io::stdout(), "killed after {after:?}: {victim:?}")?;
        let pids = match victim {
            Victim::Controller => return self.stack.kill_and_run(),
            Victim::Agent => leftovers::agents(of),
            Victim::Engine => leftovers::engines(of),
        };
        for pid in pids {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<()> {
        let is_up = |view: &Value| view["status"] == "ACTIVE" && view["operating_status"] == "HEALTHY";
        let ask = async || self.api.instance(&self.instance).await;
        let view = poll("an instance that is up", LIMIT, ask, is_up).await?;
        let text = format!("text {}", self.written.len());
        let write = async || Ok(self.engine.write(&view, &text).await.is_ok());
        poll("a write", LIMIT, write, |done| *done).await?;
        self.written.push(text);
        Ok(())
    }

    /// Takes a backup, and returns its id if it is complete.
    async fn take(&mut self, name: &str, is_increment: bool) -> Result<Option<String>> {
        let order = json!({"backup": {"name": name, "instance": self.instance, "incremental": u8::from(is_increment)}});
        let answer = self.api.post("/backups", &order).await?;
        let id = answer.body["backup"]["id"].as_str().with_context(|| format!("{answer:?}"))?.to_owned();
        self.strike(&self.instance.clone(), 1500).await?;
        let ended = |view: &Value| ["COMPLETED", "FAILED"].iter().any(|end| view["status"] == *end);
        let ask = async || Ok(self.api.get(&format!("/backups/{id}")).await?.body["backup"].clone());
        let view = poll("the end of the backup", LIMIT, ask, ended).await.with_context(|| self.stack.log_end())?;
        if view["status"] == "COMPLETED" {
            return Ok(Some(id));
        }
        let operations = self.api.await_operations(&self.instance).await?;
        ensure!(operations[0]["error"].is_string(), "it failed, and nobody says why: {operations}");
        self.leaves_nothing(&id).await?;
        Ok(None)
    }

    async fn leaves_nothing(&self, id: &str) -> Result<()> {
        let objects = async || self.stack.objects(id);
        poll("that no object is left", LIMIT, objects, |objects| objects.is_empty()).await.map(drop)
    }

    /// Restores a backup, and looks whether what was acknowledged before is there and nothing else.
    async fn restore(&mut self, backup: &str, then: usize) -> Result<()> {
        let mut order = self.engine.order("new");
        order["instance"]["restorePoint"] = json!({"backupRef": backup});
        order["instance"]["users"] = json!([]);
        order["instance"]["databases"] = json!([]);
        let new = self.api.create(&order).await?;
        self.strike(&new, 6000).await?;
        let is_done = |view: &Value| {
            view["status"] == "ERROR" || view["status"] == "ACTIVE" && view["operating_status"] == "HEALTHY"
        };
        let ask = async || self.api.instance(&new).await;
        let view = poll("an instance that is up", LIMIT, ask, is_done).await.with_context(|| self.stack.log_end())?;
        ensure!(view["status"] == "ACTIVE", "{view}\n{}", self.stack.log_end());
        // One that was killed a moment ago is said to be up until it is probed.
        let read = async || Ok(self.engine.read(&view).await.ok());
        let mut found = poll("what is in it", LIMIT, read, Option::is_some).await?.unwrap_or_default();
        found.sort();
        let mut expected = self.written[..then].to_vec();
        expected.sort();
        ensure!(found == expected, "restored was {found:?}, acknowledged {expected:?}");
        ensure!(self.api.delete(&format!("/instances/{new}")).await?.status == 202);
        self.api.await_gone(&new).await
    }

    async fn delete(&mut self, backup: &str) -> Result<()> {
        ensure!(self.api.delete(&format!("/backups/{backup}")).await?.status == 202);
        self.stack.kill_and_run()?;
        let status = async || Ok(self.api.get(&format!("/backups/{backup}")).await?.status);
        poll("the end of the backup", LIMIT, status, |status| *status == 404).await?;
        self.leaves_nothing(backup).await
    }
}

async fn killed(engine: Engine) -> Result<()> {
    let rounds = match engine {
        Engine::PostgreSql | Engine::MariaDb if depth::is_full() => 20,
        Engine::PostgreSql | Engine::MariaDb => 2,
        _ if depth::is_full() => 5,
        _ => {
            skipped(&format!("{engine:?} is killed where everything is asked for (make test-full)"));
            return Ok(());
        }
    };
    let seed = seed()?;
    let mut round = Round::start(engine, SplitMix(seed)).await?;
    let has_increments = engine == Engine::MariaDb;
    let mut kept = None;
    for number in 0..rounds {
        let context = format!("seed {seed}, {engine:?}, round {number}");
        let play = async {
            round.write().await?;
            let is_increment = has_increments && kept.is_some();
            let taken = round.take(&format!("of round {number}"), is_increment).await?;
            let Some(backup) = taken else { return anyhow::Ok(()) };
            round.restore(&backup, number + 1).await?;
            // Where increments are, the chain is deleted with its first.
            let first = kept.get_or_insert_with(|| backup.clone()).clone();
            if !has_increments || number % 4 == 3 {
                kept = None;
                round.delete(&first).await?;
                round.leaves_nothing(&backup).await?;
            }
            Ok(())
        };
        play.await.context(context)?;
    }
    Ok(())
}

each_engine!(backups_survive_kills_at_random_instants_on: killed of postgresql, mariadb, redis, mongodb);
