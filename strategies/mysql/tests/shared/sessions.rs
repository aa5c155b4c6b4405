//! The agent works whatever tenants set, hold and leave open.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use trove_conformance::Bench;
use trove_strategy::{Applied, Datastore};

use super::*;
use crate::{WAITS, odd, powerful};

#[tokio::test]
async fn what_tenants_set_decides_nothing_in_the_agents_sessions() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    make_database(&bench, "one").await?;
    let applied = bench.take_up(&odd()).await.map_err(plain)?;
    for (name, became) in &applied {
        let live = !WAITS.contains(&name.as_str());
        ensure!((*became == Applied::Live) == live, "{name}: {became:?}");
    }
    let user = id("it's `é` \"x\"", "%");
    make_user(&bench, &user, "Secret-1", &["one"]).await?;
    let mut sessions = vec![login(&bench, &user.name, "Secret-1", Some("one")).await?];
    // All connections are taken: the agent has one more.
    for n in 0..20 {
        let user = id(&format!("u{n}"), "%");
        make_user(&bench, &user, "Secret-1", &[]).await?;
        sessions.extend(login(&bench, &user.name, "Secret-1", None).await.ok());
    }
    // One of the ten is the agent's.
    ensure!(sessions.len() >= 9, "{}", sessions.len());
    ENGINE.engine().probe(&bench.site).await.map_err(plain)?;
    ENGINE.engine().metrics(&bench.site).await.map_err(plain)?;
    let listed = users().list(&bench.site).await.map_err(plain)?.len();
    ensure!(listed == 21, "{listed} accounts are listed");
    ENGINE.parameters().context("parameters")?.values(&bench.site).await.map_err(plain)?;
    drop(sessions);
    users().delete(&bench.site, &user).await.map_err(plain)?;
    bench.take_up(&Settings::default()).await.map_err(plain)?;
    running.stop(&bench).await
}

#[tokio::test]
async fn a_database_whose_tables_are_in_use_is_removed_all_the_same() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    for name in ["one", "two"] {
        make_database(&bench, name).await?;
    }
    make_user(&bench, &id("app", "%"), "Secret-1", &["one", "two"]).await?;
    let mut session = login(&bench, "app", "Secret-1", Some("two")).await?;
    session.query_drop("create table one.t (a int)").await?;
    session.query_drop("start transaction").await?;
    session.query_drop("insert into one.t values (1)").await?;
    databases().delete(&bench.site, "one").await.map_err(plain)?;
    let left = databases().list(&bench.site).await.map_err(plain)?;
    assert_eq!(left.into_iter().map(|database| database.name).collect::<Vec<_>>(), ["two"]);
    running.stop(&bench).await
}

/// The numbers of the agent's sessions.
async fn agents(session: &mut mysql_async::Conn, bench: &Bench<'_>) -> Result<Vec<u64>> {
    let of = format!("select id from information_schema.processlist where user = '{}'", own(bench));
    Ok(session.query(of).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_works_while_tenants_hold_all_connections() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let mut root = powerful(&bench).await?;
    let held = agents(&mut root, &bench).await?;
    ensure!(held.len() == 1, "{held:?}");
    ENGINE.engine().probe(&bench.site).await.map_err(plain)?;
    assert_eq!(agents(&mut root, &bench).await?, held, "each question opens a connection");
    bench.take_up(&settings(&[("max_connections", 10.into()), ("wait_timeout", 1.into())])).await.map_err(plain)?;
    make_user(&bench, &id("app", "%"), "Secret-1", &[]).await?;
    // Once with the agent's connection among them, and once with the one more that the server has.
    for closed in [false, true] {
        if closed {
            for agent in agents(&mut root, &bench).await? {
                root.query_drop(format!("kill connection {agent}")).await?;
            }
        }
        let mut tenants = Vec::new();
        // The server counts those that were closed for a moment.
        for _ in 0..30 {
            match login(&bench, "app", "Secret-1", None).await {
                Ok(mut session) => {
                    session.query_drop("set wait_timeout = 1000").await?;
                    tenants.push(session);
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        ensure!((8..=9).contains(&tenants.len()), "{}", tenants.len());
        for round in 0..10 {
            let new = id(&format!("u{closed}{round}"), "%");
            let (one, other, figures, made, all) = tokio::join!(
                ENGINE.engine().probe(&bench.site),
                ENGINE.engine().probe(&bench.site),
                ENGINE.engine().metrics(&bench.site),
                make_user(&bench, &new, "Secret-2", &[]),
                users().list(&bench.site),
            );
            made.with_context(|| format!("round {round}"))?;
            (one.and(other).map(drop)).and(figures.map(drop)).and(all.map(drop)).map_err(plain)?;
            users().delete(&bench.site, &new).await.map_err(plain)?;
        }
        // Longer than the server keeps a tenant's.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let held = agents(&mut root, &bench).await?;
        ensure!(held.len() == 1, "closed before: {closed}, {held:?}");
    }
    running.stop(&bench).await
}

#[tokio::test]
async fn a_question_that_is_given_up_takes_no_answer_from_the_next() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    for wait in [0, 1, 2, 5, 10, 20] {
        let given_up = tokio::time::timeout(Duration::from_millis(wait), users().list(&bench.site)).await;
        let health = ENGINE.engine().probe(&bench.site).await.map_err(plain)?;
        ensure!(health.version == bench.site.installation.version, "{health:?}, given up: {}", given_up.is_err());
        ensure!(users().list(&bench.site).await.map_err(plain)?.is_empty());
    }
    running.stop(&bench).await
}
