//! The engine is killed while a client writes as fast as it can: what was acknowledged is there.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, doc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::task::JoinHandle;
use trove_tests::{APP, Engine, MariaDb, MongoDb, Redis, Stack, each_engine, leftovers, poll};

const WAIT: Duration = Duration::from_secs(60);
/// So many writes before each kill.
const ENOUGH: u64 = 200;

/// Writes the numbers that follow, each for itself, until its server or its program ends.
struct Writer {
    /// The last number that was acknowledged.
    last: Arc<AtomicU64>,
    task: JoinHandle<Result<()>>,
    program: Option<Pid>,
}

impl Writer {
    fn start(engine: Engine, view: &Value, from: u64) -> Result<Self> {
        let last = Arc::new(AtomicU64::new(from));
        if engine == Engine::MongoDb {
            let client = MongoDb::plain(view)?.client(&engine.account(APP.0), APP.1)?;
            let task = tokio::spawn(insert(client, from, last.clone()));
            return Ok(Self { last, task, program: None });
        }
        let mut command = match engine {
            Engine::Redis => Redis::plain(view)?.client(APP.0, APP.1),
            _ => MariaDb::plain(view)?.client(APP.0, APP.1),
        };
        match engine {
            Engine::Redis => command.args(["-r", "-1", "INCR", "counter"]),
            _ => command.args(["--unbuffered", "--skip-reconnect"]).stdin(Stdio::piped()),
        };
        Self::run(&mut command, from, last)
    }

    /// A client program that prints each number that was acknowledged.
    fn run(command: &mut Command, from: u64, last: Arc<AtomicU64>) -> Result<Self> {
        let mut client = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let program = Some(Pid::from_raw(i32::try_from(client.id())?));
        let answers = client.stdout.take().context("its standard output")?;
        let feeder = client.stdin.take().map(|to| std::thread::spawn(move || feed(to, from)));
        let seen = last.clone();
        let task = tokio::task::spawn_blocking(move || {
            for line in BufReader::new(answers).lines() {
                if let Ok(number) = line?.trim().parse() {
                    seen.store(number, Ordering::SeqCst);
                }
            }
            client.wait()?;
            feeder.map_or(Ok(()), |feeder| feeder.join().map_err(|_| anyhow::anyhow!("the feeder")))
        });
        Ok(Self { last, task, program })
    }

    /// Its server has ended: the last number that was acknowledged.
    async fn end(self) -> Result<u64> {
        // redis-cli would connect again for ever.
        if let Some(program) = self.program {
            let _ = kill(program, Signal::SIGTERM);
        }
        self.task.await??;
        Ok(self.last.load(Ordering::SeqCst))
    }
}

/// Statements until the program ends.
fn feed(mut to: ChildStdin, from: u64) {
    for n in from + 1.. {
        if writeln!(to, "insert into app.numbers values ({n}); select {n};").is_err() {
            return;
        }
    }
}

async fn insert(client: mongodb::Client, from: u64, last: Arc<AtomicU64>) -> Result<()> {
    let numbers = client.database("app").collection("numbers");
    for n in from + 1.. {
        if numbers.insert_one(doc! {"n": i64::try_from(n)?}).await.is_err() {
            break;
        }
        last.store(n, Ordering::SeqCst);
    }
    Ok(())
}

/// How many of the numbers up to this one there are, and how many in all.
async fn count(engine: Engine, view: &Value, last: u64) -> Result<(u64, u64)> {
    match engine {
        Engine::MongoDb => {
            let client = MongoDb::plain(view)?.client(&engine.account(APP.0), APP.1)?;
            let numbers = client.database("app").collection::<Document>("numbers");
            let up_to = numbers.count_documents(doc! {"n": {"$lte": i64::try_from(last)?}}).await?;
            Ok((up_to, numbers.count_documents(doc! {}).await?))
        }
        Engine::Redis => {
            let all: u64 = Redis::plain(view)?.run(APP.0, APP.1, &["GET", "counter"])?.parse()?;
            Ok((all.min(last), all))
        }
        _ => {
            let asked = format!("select coalesce(sum(n <= {last}), 0), count(*) from app.numbers");
            let said = MariaDb::plain(view)?.run(APP.0, APP.1, &asked)?;
            let (up_to, all) = said.split_once('\t').context("two numbers")?;
            Ok((up_to.parse()?, all.parse()?))
        }
    }
}

async fn outlives_kills(engine: Engine) -> Result<()> {
    let stack = Stack::of(engine).await?;
    let api = stack.login("trove").await?;
    let id = api.create(&engine.order("killed")).await?;
    let view = api.await_active(&id).await?;
    if engine == Engine::MariaDb {
        MariaDb::plain(&view)?.run(APP.0, APP.1, "create table app.numbers (n bigint primary key)")?;
    }
    let mut written = 0;
    for round in 1..=2 {
        let engines = leftovers::engines(&id);
        ensure!(engines.len() == 1, "{engines:?}");
        let writer = Writer::start(engine, &view, written)?;
        let seen = async || Ok(writer.last.load(Ordering::SeqCst));
        poll("acknowledged writes", WAIT, seen, |seen| *seen >= written + ENOUGH).await?;
        kill(Pid::from_raw(engines[0]), Signal::SIGKILL)?;
        let acknowledged = writer.end().await?;
        let another = |pids: &Vec<i32>| pids.len() == 1 && pids[0] != engines[0];
        poll("another engine", WAIT, async || Ok(leftovers::engines(&id)), another).await?;
        let ask = async || count(engine, &view, acknowledged).await;
        let (there, all) = poll("an answer", WAIT, ask, |_| true).await?;
        // The one that was under way may have been written.
        let is_right = there == acknowledged && (all == there || all == there + 1);
        ensure!(is_right, "round {round}: {acknowledged} were acknowledged, {there} of them are there, {all} in all");
        api.await_active(&id).await?;
        written = all;
    }
    Ok(())
}

// PostgreSQL is in `agent_and_engine.rs`.
each_engine!(every_acknowledged_write_outlives_the_kill_of: outlives_kills of redis, mariadb, mongodb);
