//! What a tenant with all rights does to the log that is kept, and what the server does by itself.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio_postgres::Client;
use trove_conformance::Bench;
use trove_strategy::{Datastore, EngineError, Kind, Site, StartMode};

use super::{POSTGRESQL, Shipped, as_root, logs, plain, replayed, starts, taken, texts};

async fn write(root: &Client) -> Result<()> {
    Ok(root.batch_execute("create table if not exists t (n int); insert into t values (1)").await?)
}

/// A segment's file.
fn file(site: &Site, segment: &str) -> PathBuf {
    site.data.join("pg_wal").join(segment)
}

async fn gone(site: &Site, from: &str) -> Result<String> {
    let read = logs().piece(site, from).await;
    let Err(error) = read else { bail!("{from} is read: {:?}", read.is_ok_and(|piece| piece.is_some())) };
    ensure!(error.kind() == Kind::Gone, "{:?}: {}", error.kind(), error.chain());
    Ok(error.chain())
}

#[tokio::test]
async fn the_log_is_kept_over_restarts_and_crashes_until_it_is_stored() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let site = &bench.site;
    let mut running = bench.start().await?;
    let mut shipped = Shipped::begin(site).await?;
    for kill in [false, true] {
        let root = as_root(site).await?;
        for _ in 0..3 {
            write(&root).await?;
            logs().close(site).await.map_err(plain)?;
        }
        // What is not kept is removed or put by at a checkpoint.
        root.batch_execute("checkpoint").await?;
        drop(root);
        if kill {
            running.kill()?;
            let end = Instant::now() + Duration::from_secs(60);
            running = loop {
                // Children of a killed server live on for a moment.
                POSTGRESQL.engine().forget_earlier_life(site).await.map_err(plain)?;
                let mut again = bench.spawn(StartMode::Normal)?;
                match bench.await_answer(&mut again).await {
                    Ok(()) => break again,
                    Err(error) => ensure!(Instant::now() < end, "{error:?}"),
                }
            };
        } else {
            running.stop(&bench).await?;
            running = bench.spawn(StartMode::Normal)?;
            bench.await_answer(&mut running).await?;
        }
        ensure!(logs().keep(site).await.map_err(plain)? == shipped.next, "it begins elsewhere");
        let (count, first) = (shipped.pieces.len(), shipped.next.clone());
        shipped.drain(site).await.map_err(plain)?;
        ensure!(shipped.pieces.len() >= count + 3, "{} pieces after {count}", shipped.pieces.len());
        let said = gone(site, &first).await?;
        ensure!(said.contains("it was stored, or let go by somebody"), "{said}");
    }
    // What is stored is not kept.
    let root = as_root(site).await?;
    root.batch_execute("checkpoint").await?;
    let first = file(site, &shipped.pieces[0].from);
    ensure!(!first.exists(), "{} is there", first.display());
    for (until, kind) in [("000000010000000100000000", Kind::Invalid), ("x", Kind::Invalid)] {
        let refused = logs().stored(site, until).await.err();
        ensure!(refused.as_ref().is_some_and(|error| error.kind() == kind), "{until}: {refused:?}");
    }
    ensure!(logs().keep(site).await.map_err(plain)? == shipped.next, "what is not stored was let go");
    drop(root);
    running.stop(&bench).await
}

#[tokio::test]
async fn a_slot_that_a_tenant_drops_or_takes_is_made_anew_at_a_later_place() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let site = &bench.site;
    let first = logs().keep(site).await.map_err(plain)?;
    let root = as_root(site).await?;
    write(&root).await?;
    logs().close(site).await.map_err(plain)?;
    root.batch_execute("select pg_drop_replication_slot('trove_log')").await?;
    let said = gone(site, &first).await?;
    ensure!(said.contains("somebody has dropped the slot"), "{said}");
    logs().stored(site, &first).await.map_err(plain).context("there is nothing to let go")?;
    let mut shipped = Shipped::begin(site).await?;
    ensure!(shipped.next > first, "it begins at {} again", shipped.next);
    write(&root).await?;
    shipped.ship(site).await.map_err(plain)?;
    ensure!(!shipped.pieces.is_empty(), "nothing is kept");

    // One of theirs, that goes with its session.
    root.batch_execute("select pg_drop_replication_slot('trove_log')").await?;
    root.batch_execute("select pg_create_physical_replication_slot('trove_log', true, true)").await?;
    let refused = logs().keep(site).await.err();
    ensure!(refused.as_ref().is_some_and(|error| error.kind() == Kind::Busy), "{refused:?}");
    drop(root);
    let end = Instant::now() + Duration::from_secs(20);
    while let Err(error) = logs().keep(site).await {
        ensure!(Instant::now() < end, "{}", error.chain());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    logs().forget(site).await.map_err(plain)?;
    logs().forget(site).await.map_err(plain).context("told again")?;
    let root = as_root(site).await?;
    ensure!(texts(&root, "select slot_name from pg_replication_slots").await?.is_empty(), "a slot is left");
    drop(root);
    running.stop(&bench).await
}

#[tokio::test]
async fn a_storage_that_stands_still_does_not_fill_the_disk() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let site = &bench.site;
    let first = logs().keep(site).await.map_err(plain)?;
    let root = as_root(site).await?;
    let segments = async |count: usize| -> Result<()> {
        for _ in 0..count {
            root.batch_execute("select pg_logical_emit_message(false, 'x', 'x'); select pg_switch_wal()").await?;
        }
        Ok(())
    };
    segments(8).await?;
    root.batch_execute("checkpoint").await?;
    ensure!(file(site, &first).exists(), "it is not kept at all");
    segments(12).await?;
    root.batch_execute("checkpoint").await?;
    let said = gone(site, &first).await?;
    ensure!(said.contains("more was written than the server keeps"), "{said}");
    ensure!(!file(site, &first).exists(), "it is there all the same");
    let mut shipped = Shipped::begin(site).await?;
    ensure!(shipped.next > first, "it begins at {} again", shipped.next);
    write(&root).await?;
    shipped.ship(site).await.map_err(plain)?;
    ensure!(!shipped.pieces.is_empty(), "nothing is kept");
    drop(root);
    running.stop(&bench).await
}

#[tokio::test]
async fn what_is_put_in_the_place_of_a_segment_is_not_followed() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let site = &bench.site;
    let first = logs().keep(site).await.map_err(plain)?;
    let root = as_root(site).await?;
    write(&root).await?;
    logs().close(site).await.map_err(plain)?;
    let (at, aside) = (file(site, &first), bench.scratch().join("aside"));
    std::fs::copy(&at, &aside)?;
    let real = std::fs::read(&aside)?;
    std::fs::remove_file(&at)?;
    // A file of the agent's, which is as long as a segment and has all of one in it.
    symlink(&aside, &at)?;
    let refused = async || match logs().piece(site, &first).await {
        Err(error) => Ok(error.chain()),
        Ok(piece) => bail!("it is read: {}", piece.is_some()),
    };
    let said = refused().await?;
    ensure!(said.contains("there is a symbolic link, which is not followed"), "{said}");
    std::fs::remove_file(&at)?;
    let made = std::process::Command::new("mkfifo").arg(&at).status()?;
    ensure!(made.success(), "mkfifo");
    let said = tokio::time::timeout(Duration::from_secs(10), refused()).await.context("it waits for a pipe")??;
    ensure!(said.contains("it is no regular file"), "{said}");
    std::fs::remove_file(&at)?;
    // As the engine's account would.
    let put = |bytes: &[u8]| -> Result<()> {
        std::fs::write(&at, bytes)?;
        let like = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&site.data)?);
        Ok(std::os::unix::fs::chown(&at, Some(like), Some(like))?)
    };
    put(&real)?;
    let piece = logs().piece(site, &first).await.map_err(plain)?;
    ensure!(piece.is_some_and(|piece| piece.bytes == real), "what was put back is not read");
    put(&real[1..])?;
    let said = gone(site, &first).await?;
    ensure!(said.contains("somebody has changed or removed its file: it has another size"), "{said}");
    // There is no way on from there: what is kept begins anew.
    let second = logs().keep(site).await.map_err(plain)?;
    ensure!(second > first, "it begins at {second} again");
    put(&real)?;
    write(&root).await?;
    logs().close(site).await.map_err(plain)?;
    std::fs::write(file(site, &second), &real)?;
    let said = gone(site, &second).await?;
    ensure!(said.contains("it holds another segment"), "{said}");
    drop(root);
    // Its log is not what it should be.
    running.kill()
}

#[tokio::test]
async fn a_server_that_nobody_uses_has_nothing_to_close() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let site = &bench.site;
    let mut shipped = Shipped::begin(site).await?;
    shipped.ship(site).await.map_err(plain)?;
    let (begun, mut closes) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(40) {
        if logs().open_bytes(site).await.map_err(plain)? > 0 {
            ensure!(begun.elapsed() < Duration::from_secs(20), "something is open after {:?}", begun.elapsed());
            closes += 1;
            shipped.ship(site).await.map_err(plain)?;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    println!("{closes} closes");
    ensure!(closes <= 3, "{closes} closes");
    let root = as_root(site).await?;
    root.batch_execute("checkpoint").await?;
    let open = logs().open_bytes(site).await.map_err(plain)?;
    // To make root wrote something: the checkpoint alone does not count, and the least change does.
    ensure!(open > 0, "an account was made, and nothing is open");
    shipped.ship(site).await.map_err(plain)?;
    root.batch_execute("checkpoint").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    ensure!(logs().open_bytes(site).await.map_err(plain)? == 0, "a checkpoint counts");
    for least in ["create table t (n int)", "insert into t values (1)", "delete from t", "create sequence s"] {
        root.batch_execute(least).await?;
        ensure!(logs().open_bytes(site).await.map_err(plain)? > 0, "{least} does not count");
        shipped.ship(site).await.map_err(plain)?;
    }
    drop(root);
    running.stop(&bench).await
}

#[tokio::test]
async fn what_a_tenant_has_set_does_not_decide_how_far_is_replayed() -> Result<()> {
    let (bench, other) = (Bench::new(&POSTGRESQL).await?, Bench::new(&POSTGRESQL).await?);
    let running = bench.start().await?;
    let site = &bench.site;
    let root = as_root(site).await?;
    for set in [
        "recovery_target_time = '2000-01-01 00:00:00+00'",
        "recovery_target_timeline = 'latest'",
        "recovery_target_action = 'shutdown'",
        "recovery_target_inclusive = off",
        "recovery_min_apply_delay = '1h'",
        "restore_command = 'touch restored; false'",
        "recovery_end_command = 'touch restored'",
        "archive_cleanup_command = 'touch restored'",
        "log_min_messages = 'panic'",
        "work_mem = '9MB'",
    ] {
        root.batch_execute(&format!("alter system set {set}")).await?;
    }
    let mut shipped = Shipped::begin(site).await?;
    let backup = taken(site).await?;
    root.batch_execute("create table ledger (number int); insert into ledger values (1)").await?;
    shipped.ship(site).await.map_err(plain)?;
    replayed(&other, &backup, &shipped.pieces, None).await.map_err(plain)?;
    let restored = starts(&other).await?;
    let there = as_root(&other.site).await?;
    ensure!(texts(&there, "select number from ledger").await? == ["1"], "it is not replayed to the end");
    ensure!(texts(&there, "show work_mem").await? == ["9MB"], "what ALTER SYSTEM set is gone");
    ensure!(!other.site.data.join("restored").exists(), "a command of the tenant's was run");
    drop(there);
    restored.stop(&other).await?;

    // Without the database in which the agent works nothing is asked any more, but what was shipped is replayed all the same.
    let password = "Root-secret-1";
    let mut config = tokio_postgres::Config::new();
    config.host(site.address.to_string()).port(site.port).user("root").dbname("template1").password(password);
    let (elsewhere, connection) = config.connect(tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    drop(root);
    elsewhere.batch_execute("drop database postgres with (force)").await?;
    elsewhere.batch_execute("select pg_switch_wal()").await?;
    let refused = logs().piece(site, &shipped.next).await.err();
    ensure!(refused.as_ref().is_some_and(|error: &EngineError| error.kind() == Kind::LockedOut), "{refused:?}");
    let bytes = std::fs::read(file(site, &shipped.next))?;
    let number = u64::from_str_radix(&shipped.next[8..], 16)? + 1;
    let until = format!("{}{number:016X}", &shipped.next[..8]);
    shipped.pieces.push(trove_strategy::LogPiece { from: shipped.next.clone(), until, bytes });
    replayed(&other, &backup, &shipped.pieces, None).await.map_err(plain)?;
    let mended = POSTGRESQL.engine().repair(&other.site).await.map_err(plain)?;
    ensure!(mended.as_ref().is_some_and(|mended| mended.contains("the database postgres")), "{mended:?}");
    starts(&other).await?.stop(&other).await?;
    drop(elsewhere);
    running.stop(&bench).await
}
