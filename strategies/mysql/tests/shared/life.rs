//! From the first start to a crash.

use std::time::Duration;

use anyhow::{Result, ensure};
use mysql_async::prelude::Queryable;
use trove_strategy::{Datastore, StartMode};

use super::*;
use crate::{POSITION, READ_ONLY, SYSTEM_ACCOUNTS, VARIABLES};

#[tokio::test]
async fn from_the_first_start_the_agents_account_is_alone_and_the_log_of_changes_is_written() -> Result<()> {
    let Some(mut bench) = bench().await? else { return Ok(()) };
    bench.site.server_id = 4711;
    let running = bench.start().await?;
    let engine = ENGINE.engine();
    engine.secure(&bench.site).await.map_err(plain)?;
    make_database(&bench, "one").await?;
    make_user(&bench, &id("app", "%"), "Secret-needle-1", &["one"]).await?;
    engine.secure(&bench.site).await.map_err(plain)?;

    root().enable(&bench.site, &"Root-secret-1".into()).await.map_err(plain)?;
    let mut session = login(&bench, "root", "Root-secret-1", None).await?;
    let accounts: Vec<String> = session.query("select concat(user, '@', host) from mysql.user order by 1").await?;
    let mut expected = vec!["app@%".to_owned(), format!("{}@localhost", own(&bench)), "root@%".to_owned()];
    expected.extend(SYSTEM_ACCOUNTS.iter().map(|name| format!("{name}@localhost")));
    expected.sort();
    assert_eq!(accounts, expected);
    let names: Vec<String> = session.query("show databases").await?;
    assert_eq!(names, ["information_schema", "mysql", "one", "performance_schema", "sys"]);
    for (name, expected) in [
        ("log_bin", "1"),
        ("server_id", "4711"),
        ("binlog_format", "ROW"),
        ("sync_binlog", "1"),
        ("innodb_flush_log_at_trx_commit", "1"),
        ("skip_name_resolve", "1"),
        ("local_infile", "0"),
        ("character_set_server", "utf8mb4"),
    ]
    .iter()
    .chain(VARIABLES)
    {
        assert_eq!(one(&mut session, &format!("select @@global.{name}")).await?, *expected, "{name}");
    }
    let (of_position, said) = POSITION;
    let position = one(&mut session, &format!("select @@global.{of_position}")).await?;
    ensure!(position.contains(said), "{position}");
    let health = engine.probe(&bench.site).await.map_err(plain)?;
    ensure!(health.position == Some(position), "{health:?}");
    let figures = engine.metrics(&bench.site).await.map_err(plain)?;
    for name in [
        "connections",
        "connections_max",
        "commits_total",
        "slow_queries_total",
        "log_position_bytes",
        "blocks_read_total",
    ] {
        ensure!(figures.iter().any(|figure| figure.name == name), "{name} is not among {figures:?}");
    }
    // No password is in the log of changes, nor in any file of the server's.
    running.stop(&bench).await?;
    let grep =
        std::process::Command::new("grep").args(["-r", "-l", "-e", "needle-1"]).arg(&bench.site.data).output()?;
    ensure!(grep.stdout.is_empty(), "a password stands in {}", String::from_utf8_lossy(&grep.stdout));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_row_outlives_the_servers_kill() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let mut running = bench.start().await?;
    make_database(&bench, "one").await?;
    make_user(&bench, &id("app", "%"), "Secret-1", &["one"]).await?;
    login(&bench, "app", "Secret-1", Some("one")).await?.query_drop("create table t (n int primary key)").await?;
    let mut first = 0;
    for _ in 0..3 {
        let mut session = login(&bench, "app", "Secret-1", Some("one")).await?;
        let writer = tokio::spawn(async move {
            let mut n = first;
            while session.query_drop(format!("insert into t values ({n})")).await.is_ok() {
                n += 1;
            }
            n
        });
        tokio::time::sleep(Duration::from_millis(1500)).await;
        running.kill()?;
        let acknowledged = writer.await?;
        ensure!(acknowledged > first, "only {} rows were written", acknowledged - first);
        ENGINE.engine().forget_earlier_life(&bench.site).await.map_err(plain)?;
        running = bench.spawn(StartMode::Normal)?;
        bench.await_answer(&mut running).await?;
        let mut session = login(&bench, "app", "Secret-1", Some("one")).await?;
        let there: i64 = one(&mut session, "select count(*) from t").await?.parse()?;
        // The last one may have been written and not acknowledged.
        ensure!((acknowledged..=acknowledged + 1).contains(&there), "{acknowledged} acknowledged, {there} there");
        first = there;
    }
    running.stop(&bench).await
}

#[tokio::test]
async fn a_full_volume_lets_sessions_begin_read_only_and_make_room() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    make_database(&bench, "one").await?;
    make_user(&bench, &id("app", "%"), "Secret-1", &["one"]).await?;
    let mut before = login(&bench, "app", "Secret-1", Some("one")).await?;
    before.query_drop("create table t (n int)").await?;
    before.query_drop("insert into t values (1)").await?;
    let mut full = Settings::default();
    full.read_only = true;
    bench.take_up(&full).await.map_err(plain)?;
    let mut session = login(&bench, "app", "Secret-1", Some("one")).await?;
    let refused = session.query_drop("insert into t values (2)").await.map_err(|error| error.to_string());
    ensure!(refused.as_ref().is_err_and(|said| said.contains("READ ONLY")), "{refused:?}");
    session.query_drop(format!("set session {READ_ONLY} = 0")).await?;
    session.query_drop("truncate t").await?;
    // The agent works all the same.
    make_user(&bench, &id("other", "%"), "Secret-2", &["one"]).await?;
    bench.take_up(&Settings::default()).await.map_err(plain)?;
    login(&bench, "app", "Secret-1", Some("one")).await?.query_drop("insert into t values (3)").await?;
    running.stop(&bench).await
}

#[tokio::test]
async fn certificates_are_renewed_without_losing_a_connection_and_clear_ones_can_be_refused() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    make_database(&bench, "one").await?;
    make_user(&bench, &id("app", "%"), "Secret-1", &["one"]).await?;
    let mut session = login(&bench, "app", "Secret-1", Some("one")).await?;
    let cipher = "show session status like 'Ssl_version'";
    ensure!(client(&bench, "app", "Secret-1", "one", cipher)?.contains("TLSv1.3"));
    // A certificate that does not fit its key changes nothing.
    let certificate = bench.site.path(&bench.site.tls.certificate);
    let whole = std::fs::read(&certificate)?;
    bench.renew_certificate().await?;
    let next = std::fs::read(&certificate)?;
    std::fs::write(&certificate, &whole)?;
    ensure!(ENGINE.engine().reload(&bench.site, &Settings::default()).await.is_err(), "it was taken up");
    std::fs::write(&certificate, &next)?;
    ENGINE.engine().reload(&bench.site, &Settings::default()).await.map_err(plain)?;
    ensure!(client(&bench, "app", "Secret-1", "one", cipher)?.contains("TLSv1.3"), "the new one is not served");
    assert_eq!(one(&mut session, "select 1").await?, "1", "a session was lost");
    let mut enforced = Settings::default();
    enforced.tls = trove_strategy::TlsMode::Enforced;
    bench.take_up(&enforced).await.map_err(plain)?;
    ensure!(login(&bench, "app", "Secret-1", None).await.is_err(), "clear TCP in mode enforced");
    ensure!(client(&bench, "app", "Secret-1", "one", cipher)?.contains("TLSv1.3"));
    running.stop(&bench).await
}

#[tokio::test]
async fn two_servers_on_one_machine_do_not_see_each_other() -> Result<()> {
    let (Some(one_bench), Some(other)) = (bench().await?, bench().await?) else { return Ok(()) };
    let (running, other_running) = (one_bench.start().await?, other.start().await?);
    make_database(&one_bench, "one").await?;
    make_user(&one_bench, &id("app", "%"), "Secret-1", &["one"]).await?;
    ensure!(databases().list(&other.site).await.map_err(plain)?.is_empty());
    ensure!(users().list(&other.site).await.map_err(plain)?.is_empty());
    ensure!(login(&other, "app", "Secret-1", None).await.is_err(), "an account of the other server is let in");
    login(&one_bench, "app", "Secret-1", Some("one")).await?;
    running.stop(&one_bench).await?;
    other_running.stop(&other).await
}
