//! The controller is killed at random times.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use trove_tests::random::{SplitMix, seed};
use trove_tests::{Engine, depth, each_engine};

use crate::subject::{Subject, committed_as};
use crate::{SWEPT, kills, quoted_after, sources};

#[tokio::test]
async fn thirty_kills_at_random_instants_change_nothing() -> Result<()> {
    let seed = seed()?;
    let mut instants = SplitMix(seed);
    for engine in depth::engines(Engine::PostgreSql) {
        let mut subject = Subject::start(engine).await?;
        for (round, kind) in SWEPT.iter().cycle().take(30).enumerate() {
            let after = Duration::from_millis(instants.number() % 1500);
            let context = format!("seed {seed}, {engine:?}, round {round}, {kind}, killed after {after:?}");
            random_round(&mut subject, kind, after).await.context(context)?;
        }
    }
    Ok(())
}

/// Steps of a kind of operation, as its file lists them.
fn steps(kind: &str) -> Result<Vec<String>> {
    let mark = format!("const KIND: &'static str = \"{kind}\"");
    let text = sources("controller/src/operations")?.into_iter().find(|text| text.contains(&mark));
    let text: String = text.with_context(|| mark)?.split_whitespace().collect();
    Ok(quoted_after(&text, ".step(\"").into_iter().map(str::to_owned).collect())
}

/// Kills the controller at some steps of operations on an engine whose sweep is left to the full depth.
async fn sample(engine: Engine) -> Result<()> {
    if depth::is_full() {
        return Ok(());
    }
    let seed = seed()?;
    let mut random = SplitMix(seed);
    let mut subject = Subject::start(engine).await?;
    for _ in 0..3 {
        let kind = random.one_of(SWEPT)?;
        let (step, side) = (random.one_of(&steps(kind)?)?, random.one_of(&["before", "after"])?);
        let point = format!("operation.{kind}.{step}.{side}");
        writeln!(std::io::stdout(), "killed at {point}")?;
        if kind == "create_instance" && subject.id().is_ok() {
            subject.remove().await?;
        }
        kills::kill_at(&mut subject, kind, &point)
            .await
            .with_context(|| format!("seed {seed}, {engine:?}, {point}"))?;
    }
    Ok(())
}

each_engine!(a_sample_of_steps_survives_kills_on: sample of mariadb, mongodb);

async fn random_round(subject: &mut Subject, kind: &str, after: Duration) -> Result<()> {
    subject.prepare(kind).await?;
    subject.ask(kind).await?;
    tokio::time::sleep(after).await;
    subject.stack.kill_and_run()?;
    subject.assert_done(kind).await
}

#[tokio::test]
async fn an_order_that_was_not_committed_has_left_nothing() -> Result<()> {
    let mut subject = Subject::start(Engine::PostgreSql).await?;
    for kind in SWEPT {
        subject.prepare(kind).await?;
        subject.arm(&format!("enqueue.{}.before_commit=kill", committed_as(kind)))?;
        let makes_one = ["create_instance", "restore_instance"].contains(kind);
        if !makes_one {
            subject.await_usable().await?;
        }
        subject.ask_without_answer(kind).await?;
        subject.die_and_carry_on().await.context(*kind)?;
        if makes_one {
            let list = subject.api.get("/instances").await?.body;
            ensure!(list["instances"] == serde_json::json!([]), "{list}");
            subject.assert_use(0, 0, 0).await?;
        } else {
            let operations = subject.api.await_operations(subject.id()?).await?;
            let made = operations.as_array().into_iter().flatten().any(|operation| operation["kind"] == *kind);
            ensure!(!made, "{operations}");
            subject.assert_well().await.context(*kind)?;
        }
        if *kind == "verify_backup" {
            let verified = subject.verification().await?;
            ensure!(verified["state"] == "none", "{verified}");
        }
        if *kind == "create_backup" {
            let list = subject.api.get("/backups").await?.body;
            ensure!(list["backups"] == serde_json::json!([]), "{list}");
        }
    }
    Ok(())
}
