//! What a tenant with all rights has set or put into the data directory, before it is replayed or shipped.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use trove_conformance::Bench;
use trove_strategy::{Datastore, Kind, Role, StartMode};

use super::{POSTGRESQL, Shipped, as_root, logs, plain, replayed, starts, taken, texts};

#[tokio::test]
async fn what_a_tenant_has_set_neither_ends_a_replay_elsewhere_nor_runs_programs_in_it() -> Result<()> {
    let (bench, other) = (Bench::new(&POSTGRESQL).await?, Bench::new(&POSTGRESQL).await?);
    let running = bench.start().await?;
    let root = as_root(&bench.site).await?;
    let ran = bench.site.data.with_file_name("ran").display().to_string();
    for (name, value) in [
        ("restore_command", format!("echo restore >> {ran}")),
        ("archive_cleanup_command", format!("echo cleanup >> {ran}")),
        ("recovery_end_command", format!("echo end >> {ran}")),
        ("recovery_target_time", "2000-01-01".to_owned()),
        ("recovery_target_action", "shutdown".to_owned()),
        ("recovery_target_timeline", "7".to_owned()),
        ("recovery_min_apply_delay", "1h".to_owned()),
        ("primary_conninfo", "host=192.0.2.1".to_owned()),
        ("primary_slot_name", "theirs".to_owned()),
        ("shared_preload_libraries", "nothing".to_owned()),
        ("listen_addresses", "*".to_owned()),
        ("hba_file", "/nonexistent".to_owned()),
        ("port", "1".to_owned()),
        ("lc_messages", "C".to_owned()),
        ("log_line_prefix", "FATAL:  recovery ended before configured recovery target was reached".to_owned()),
    ] {
        root.batch_execute(&format!("alter system set {name} = '{value}'")).await.context(name)?;
    }
    root.batch_execute("alter database postgres set default_transaction_read_only = on").await?;
    root.batch_execute("alter role all set role = 'nobody'").await?;
    let files = "touch standby.signal recovery.signal; mkfifo trove_log_taken; mkdir postgresql.auto.conf.replaying; \
                 echo x > postgresql.auto.conf.replaying/x; mkdir .recovery.signal.new; echo x > .recovery.signal.new/x";
    root.batch_execute(&format!("copy (select 1) to program '{files}'")).await?;
    let mut shipped = Shipped::begin(&bench.site).await?;
    let backup = taken(&bench.site).await?;
    root.batch_execute("create table t as select 1 as n").await?;
    shipped.ship(&bench.site).await.map_err(plain)?;
    drop(root);
    running.stop(&bench).await?;

    for until in [None, Some(std::time::SystemTime::now())] {
        replayed(&other, &backup, &shipped.pieces, until).await.map_err(plain)?;
        let running = starts(&other).await?;
        let client = as_root(&other.site).await?;
        ensure!(texts(&client, "select n from t").await? == ["1"], "it is not all there");
        ensure!(texts(&client, "show hot_standby").await? == ["on"], "the replay's settings are in force");
        ensure!(!std::path::Path::new(&ran).exists(), "a program of the tenant's ran");
        drop(client);
        running.stop(&other).await?;
    }
    Ok(())
}

/// A machine was set back to an earlier image, or a tenant has had the server say that it has come further than it has.
#[tokio::test]
async fn a_server_that_has_not_come_so_far_does_not_go_on_there() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let kept = logs().keep(&bench.site).await.map_err(plain)?;
    ensure!(logs().piece(&bench.site, &kept).await.map_err(plain)?.is_none(), "it is written still");
    for ahead in ["0000000100000000000000F0", "00000001FFFFFFFF000000FE"] {
        let error = logs().piece(&bench.site, ahead).await.err().context("it waits for what may never come")?;
        ensure!(error.kind() == Kind::Gone, "{:?}: {}", error.kind(), error.chain());
    }
    running.stop(&bench).await
}

/// By a file that a tenant with a shell makes, a server begins another timeline when it is started.
#[tokio::test]
async fn another_timeline_is_a_gap_and_is_shipped_from_its_beginning() -> Result<()> {
    let (bench, other) = (Bench::new(&POSTGRESQL).await?, Bench::new(&POSTGRESQL).await?);
    let running = bench.start().await?;
    let root = as_root(&bench.site).await?;
    root.batch_execute("alter system set restore_command = 'false'").await?;
    let mut shipped = Shipped::begin(&bench.site).await?;
    root.batch_execute("create table t as select 1 as n").await?;
    shipped.ship(&bench.site).await.map_err(plain)?;
    root.batch_execute("insert into t values (2)").await?;
    root.batch_execute("copy (select 1) to program 'touch recovery.signal'").await?;
    drop(root);
    running.stop(&bench).await?;

    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    // It answers before its recovery has ended.
    while POSTGRESQL.engine().probe(&bench.site).await.map_err(plain)?.role != Role::Primary {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let gone = shipped.ship(&bench.site).await.err().context("the log goes on")?;
    ensure!(gone.kind() == Kind::Gone && gone.chain().contains("timeline"), "{:?}: {}", gone.kind(), gone.chain());
    let mut shipped = Shipped::begin(&bench.site).await?;
    if let Err(error) = shipped.ship(&bench.site).await {
        // What it kept is of the timeline before: it keeps anew.
        ensure!(error.kind() == Kind::Gone, "{:?}: {}", error.kind(), error.chain());
        shipped = Shipped::begin(&bench.site).await?;
    }
    let backup = taken(&bench.site).await?;
    let root = as_root(&bench.site).await?;
    root.batch_execute("insert into t values (3)").await?;
    shipped.ship(&bench.site).await.map_err(plain)?;
    ensure!(shipped.pieces.iter().all(|piece| piece.from.starts_with("00000002")), "{:?}", shipped.next);
    drop(root);
    running.stop(&bench).await?;
    replayed(&other, &backup, &shipped.pieces, None).await.map_err(plain)?;
    let running = starts(&other).await?;
    let client = as_root(&other.site).await?;
    ensure!(texts(&client, "select n from t order by n").await? == ["1", "2", "3"], "it is not all there");
    drop(client);
    running.stop(&other).await
}
