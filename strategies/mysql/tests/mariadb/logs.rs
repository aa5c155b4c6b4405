//! The log in pieces: shipped while tenants write, and replayed on a backup to any second. And what one with all rights does to it.

use std::io::Cursor;
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use mysql_async::prelude::Queryable;
use trove_conformance::{Bench, Running};
use trove_strategy::{
    Backup, Datastore, Directory, EngineError, Kind, LogPiece, Logs, PIECE_LIMIT, Settings, Site, StartMode, UserChange,
};

use crate::ENGINE;
use crate::hostile::almighty;
use crate::shared::*;

fn logs() -> &'static dyn Logs {
    &ENGINE
}

async fn taken(site: &Site) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    Backup::take(&ENGINE, site, &mut bytes).await.map_err(plain)?;
    Ok(bytes.into_inner())
}

/// What was shipped, and where the next piece begins.
#[derive(Clone, Default)]
struct Shipped {
    pieces: Vec<LogPiece>,
    next: String,
}

impl Shipped {
    async fn begin(site: &Site) -> Result<Self> {
        Ok(Self { pieces: Vec::new(), next: logs().keep(site).await.map_err(plain)? })
    }

    /// Closes what is open, where something is, and stores it.
    async fn ship(&mut self, site: &Site) -> Result<(), EngineError> {
        if logs().open_bytes(site).await? > 0 {
            logs().close(site).await?;
        }
        while let Some(piece) = logs().piece(site, &self.next).await? {
            logs().stored(site, &piece.until).await?;
            self.next.clone_from(&piece.until);
            self.pieces.push(piece);
        }
        Ok(())
    }
}

/// A server with a database, a tenant of it, and a backup that was taken after the log was begun.
struct Source {
    bench: Bench<'static>,
    running: Running,
    shipped: Shipped,
    backup: Vec<u8>,
}

impl Source {
    async fn start() -> Result<Self> {
        let bench = bench().await?.context("it is installed")?;
        let running = bench.start().await?;
        make_database(&bench, "shop").await?;
        make_user(&bench, &id("app", "%"), "Secret-1", &["shop"]).await?;
        let mut session = tenant(&bench).await?;
        session.query_drop("create table ledger (n bigint primary key, word text)").await?;
        session.query_drop("create event early on schedule every 1 day do delete from ledger").await?;
        let shipped = Shipped::begin(&bench.site).await?;
        let backup = taken(&bench.site).await?;
        Ok(Self { bench, running, shipped, backup })
    }

    async fn write(&self, number: i64) -> Result<()> {
        let insert = format!("insert into ledger values ({number}, 'kept')");
        Ok(tenant(&self.bench).await?.query_drop(insert).await?)
    }

    async fn ship(&mut self) -> Result<()> {
        self.shipped.ship(&self.bench.site).await.map_err(plain)
    }

    /// Writes one and closes its file, which is not stored. Its place.
    async fn closed(&self, number: i64) -> Result<String> {
        let place = logs().keep(&self.bench.site).await.map_err(plain)?;
        self.write(number).await?;
        logs().close(&self.bench.site).await.map_err(plain)?;
        Ok(place)
    }

    async fn start_again(&mut self) -> Result<()> {
        self.running = self.bench.spawn(StartMode::Normal)?;
        self.bench.await_answer(&mut self.running).await
    }

    /// Does something until a file is not there any more: the server keeps it for a moment, for its own recovery.
    async fn removed(&self, place: &str, mut remove: impl AsyncFnMut() -> Result<()>) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(20);
        while self.file(place).exists() {
            ensure!(Instant::now() < end, "{place} is there all the same");
            remove().await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn file(&self, place: &str) -> PathBuf {
        self.bench.site.data.join(place.split('/').next().unwrap_or_default())
    }
}

async fn tenant(bench: &Bench<'_>) -> Result<mysql_async::Conn> {
    login(bench, "app", "Secret-1", Some("shop")).await
}

async fn numbers(bench: &Bench<'_>) -> Result<Vec<i64>> {
    Ok(tenant(bench).await?.query("select n from ledger order by n").await?)
}

/// Restores and replays as the agent does, in the place of whatever was there.
async fn replayed(
    bench: &Bench<'_>,
    backup: &[u8],
    pieces: &[LogPiece],
    until: Option<SystemTime>,
) -> Result<(), EngineError> {
    let site = &bench.site;
    site.host.remove(&Directory::Data.join("data")).await?;
    Backup::restore(&ENGINE, site, &mut Cursor::new(backup.to_vec())).await?;
    for piece in pieces {
        logs().take(site, piece.clone()).await?;
    }
    logs().replay(site, until).await
}

/// Starts what was replayed as the agent does.
async fn starts(bench: &Bench<'_>) -> Result<Running> {
    let (engine, site) = (ENGINE.engine(), &bench.site);
    engine.initialise(site).await.map_err(plain)?;
    engine.configure(site, &Settings::default()).await.map_err(plain)?;
    engine.forget_earlier_life(site).await.map_err(plain)?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await.context("what was replayed")?;
    let left = site.data.with_file_name("replay");
    ensure!(!left.exists() && !site.data.join("log-begins").exists(), "something of the replay is left");
    Ok(running)
}

async fn gone(site: &Site, from: &str) -> Result<String> {
    let read = logs().piece(site, from).await;
    let Err(error) = read else { bail!("{from} is read: {:?}", read.is_ok_and(|piece| piece.is_some())) };
    ensure!(error.kind() == Kind::Gone, "{:?}: {}", error.kind(), error.chain());
    Ok(error.chain())
}

/// That what is there is what was acknowledged more than a second before, and nothing that was begun a second later.
fn compare(found: &[i64], ledger: &[(i64, SystemTime, SystemTime)], until: SystemTime) -> Result<()> {
    let second = Duration::from_secs(1);
    for (number, begun, acknowledged) in ledger {
        let is_there = found.binary_search(number).is_ok();
        ensure!(is_there || *acknowledged + second >= until, "{number}, acknowledged before, is missing");
        ensure!(!is_there || *begun <= until, "{number}, begun later, is there");
    }
    Ok(())
}

#[tokio::test]
async fn a_ledger_is_replayed_to_any_second_also_over_a_crash() -> Result<()> {
    let mut source = Source::start().await?;
    let mut ledger = Vec::new();
    for life in 0..3 {
        let mut session = tenant(&source.bench).await?;
        let end = SystemTime::now() + Duration::from_millis(2500);
        while SystemTime::now() < end {
            let (number, begun) = (ledger.len() as i64, SystemTime::now());
            session.query_drop(format!("insert into ledger values ({number}, 'kept')")).await?;
            ledger.push((number, begun, SystemTime::now()));
        }
        if life == 1 {
            let lost = source.bench.spawn(StartMode::Normal)?;
            std::mem::replace(&mut source.running, lost).kill()?;
            source.start_again().await?;
        } else {
            source.ship().await?;
        }
    }
    source.ship().await?;
    ensure!(source.shipped.pieces.len() >= 3, "{} pieces", source.shipped.pieces.len());
    let other = bench().await?.context("it is installed")?;
    for part in [0, 1, 2, 3, 4] {
        let until = match part {
            4 => SystemTime::now() + Duration::from_secs(3600),
            _ => ledger[ledger.len() * part / 4].2 + Duration::from_millis(400),
        };
        replayed(&other, &source.backup, &source.shipped.pieces, Some(until)).await.map_err(plain)?;
        let running = starts(&other).await?;
        compare(&numbers(&other).await?, &ledger, until).with_context(|| format!("part {part}"))?;
        running.stop(&other).await?;
    }
    source.running.stop(&source.bench).await
}

/// Data and log may differ then, and nothing in the log tells.
#[tokio::test]
async fn a_crash_that_may_have_lost_changes_is_a_gap() -> Result<()> {
    let mut source = Source::start().await?;
    let relaxed = settings(&[("innodb_flush_log_at_trx_commit", 2.into())]);
    source.bench.take_up(&relaxed).await.map_err(plain)?;
    source.ship().await?;
    source.write(1).await?;
    let lost = source.bench.spawn(StartMode::Normal)?;
    std::mem::replace(&mut source.running, lost).kill()?;
    source.start_again().await?;
    let site = source.bench.site.clone();
    let refused = source.shipped.ship(&site).await;
    let is_gap = |error: &EngineError| error.kind() == Kind::Gone && error.chain().contains("sync_binlog");
    ensure!(refused.as_ref().is_err_and(is_gap), "{refused:?}");
    let mut next = Shipped::begin(&site).await?;
    source.write(2).await?;
    next.ship(&site).await.map_err(plain)?;
    ensure!(!next.pieces.is_empty(), "nothing goes on");
    source.running.stop(&source.bench).await
}

#[tokio::test]
async fn the_log_is_kept_over_restarts_until_it_is_stored() -> Result<()> {
    let mut source = Source::start().await?;
    let first = source.closed(1).await?;
    source.running.stop(&source.bench).await?;
    source.running = source.bench.spawn(StartMode::Normal)?;
    source.bench.await_answer(&mut source.running).await?;
    let site = source.bench.site.clone();
    ensure!(logs().keep(&site).await.map_err(plain)? == first, "it begins elsewhere");
    source.shipped.ship(&site).await.map_err(plain)?;
    ensure!(source.shipped.pieces.first().is_some_and(|piece| piece.from == first), "the first is not there");
    ensure!(!source.file(&first).exists(), "what is stored is kept");
    let said = gone(&site, &first).await?;
    ensure!(said.contains("it was stored"), "{said}");
    for wrong in ["x", "binlog.000001", "binlog.000001/0/0", "binlog.1/0000000000000000/0", "../x/0000000000000000/0"] {
        for refused in [logs().stored(&site, wrong).await.err(), logs().piece(&site, wrong).await.err()] {
            ensure!(refused.as_ref().is_some_and(|error| error.kind() == Kind::Invalid), "{wrong}: {refused:?}");
        }
    }
    // A server that nobody uses closes nothing.
    source.ship().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    ensure!(logs().open_bytes(&site).await.map_err(plain)? == 0, "something is open");
    let files = std::fs::read_dir(&site.data)?.count();
    logs().close(&site).await.map_err(plain)?;
    ensure!(std::fs::read_dir(&site.data)?.count() == files, "a file was begun");
    source.running.stop(&source.bench).await
}

#[tokio::test]
async fn a_storage_that_stands_still_does_not_fill_the_disk() -> Result<()> {
    let mut source = Source::start().await?;
    let first = source.closed(1).await?;
    // As on a volume of which nothing is left for the log.
    source.bench.site.size.volume_gib = 0;
    source.removed(&first, async || ENGINE.engine().probe(&source.bench.site).await.map(drop).map_err(plain)).await?;
    let said = gone(&source.bench.site, &first).await?;
    ensure!(said.contains("there was no room for it"), "{said}");
    let second = source.closed(2).await?;
    ensure!(second != first, "it begins there again");
    ensure!(logs().piece(&source.bench.site, &second).await.map_err(plain)?.is_some(), "nothing is kept");
    source.running.stop(&source.bench).await
}

#[tokio::test]
async fn what_one_with_all_rights_does_to_the_log_is_a_gap() -> Result<()> {
    let mut source = Source::start().await?;
    let mut root = almighty(&source.bench).await?;
    let site = source.bench.site.clone();
    source.ship().await?;
    for sql in ["purge binary logs before now() + interval 1 day", "reset master", "set gtid_seq_no = 100000"] {
        let place = source.closed(1).await?;
        if sql.starts_with("purge") {
            source.removed(&place, async || Ok(root.query_drop(sql).await?)).await?;
        } else {
            root.query_drop(sql).await.context(sql)?;
        }
        let place = if sql.starts_with("set") { logs().keep(&site).await.map_err(plain)? } else { place };
        root.query_drop("delete from shop.ledger").await?;
        logs().close(&site).await.map_err(plain)?;
        let mut next = place.clone();
        // What came before the gap is whole.
        let error = loop {
            match logs().piece(&site, &next).await {
                Ok(Some(piece)) => next = piece.until,
                Ok(None) => bail!("{sql}: there is no gap"),
                Err(error) => break error,
            }
        };
        ensure!(error.kind() == Kind::Gone, "{sql}: {}", error.chain());
        let mut shipped = Shipped::begin(&site).await?;
        ensure!(shipped.next != next, "{sql}: it begins there again");
        source.write(2).await?;
        shipped.ship(&site).await.map_err(plain).context(sql)?;
        ensure!(!shipped.pieces.is_empty(), "{sql}: nothing is kept");
        root.query_drop("delete from shop.ledger").await?;
    }
    source.running.stop(&source.bench).await
}

#[tokio::test]
async fn what_is_put_in_the_place_of_a_file_of_the_log_is_not_followed_and_not_taken_for_it() -> Result<()> {
    let source = Source::start().await?;
    let site = &source.bench.site;
    let first = source.closed(1).await?;
    let (at, aside) = (source.file(&first), source.bench.scratch().join("aside"));
    let real = std::fs::read(&at)?;
    std::fs::write(&aside, &real)?;
    std::fs::remove_file(&at)?;
    symlink(&aside, &at)?;
    let refused = async || match logs().piece(site, &first).await {
        Err(error) => Ok(error.chain()),
        Ok(piece) => bail!("it is read: {}", piece.is_some()),
    };
    let said = refused().await?;
    ensure!(said.contains("there is a symbolic link, which is not followed"), "{said}");
    std::fs::remove_file(&at)?;
    ensure!(std::process::Command::new("mkfifo").arg(&at).status()?.success(), "mkfifo");
    let said = tokio::time::timeout(Duration::from_secs(10), refused()).await.context("it waits for a pipe")??;
    ensure!(said.contains("it is no regular file"), "{said}");
    std::fs::remove_file(&at)?;
    // As the engine's account would.
    let put = |at: &PathBuf, bytes: &[u8]| -> Result<()> {
        std::fs::write(at, bytes)?;
        let like = std::fs::metadata(&site.data)?;
        Ok(chown(at, Some(like.uid()), Some(like.gid()))?)
    };
    put(&at, &real)?;
    let piece = logs().piece(site, &first).await.map_err(plain)?;
    ensure!(piece.is_some_and(|piece| piece.bytes == real), "what was put back is not read");

    // A file from which the end, or the change in the middle, was taken away, one that begins otherwise, and none at all.
    let mut place = first;
    for (number, what) in ["end", "middle", "beginning", "all"].into_iter().enumerate() {
        let at = source.file(&place);
        let real = std::fs::read(&at)?;
        let changes: Vec<_> = events(&real).filter(|(kind, _)| *kind == 162).map(|(_, from)| from).collect();
        let change = *changes.first().context("a change")?;
        let rest = changes.get(1).copied().unwrap_or(real.len());
        match what {
            "end" => put(&at, &real[..change])?,
            "middle" => put(&at, &[&real[..change], &real[rest..]].concat())?,
            "beginning" => put(&at, &[&real[..5], &[real[5] ^ 1], &real[6..]].concat())?,
            _ => std::fs::remove_file(&at)?,
        }
        let said = gone(site, &place).await.with_context(|| what.to_owned())?;
        ensure!(said.contains("somebody has changed or removed its file"), "{what}: {said}");
        // There is no way on from there: what is kept begins anew.
        let next = logs().keep(site).await.map_err(plain)?;
        ensure!(next != place, "{what}: it begins at {next} again");
        source.write(10 + i64::try_from(number)?).await?;
        source.write(20 + i64::try_from(number)?).await?;
        logs().close(site).await.map_err(plain)?;
        ensure!(logs().piece(site, &next).await.map_err(plain)?.is_some(), "{what}: nothing is kept");
        place = next;
    }
    source.running.kill()
}

/// Kinds of events, and where they begin.
fn events(file: &[u8]) -> impl Iterator<Item = (u8, usize)> {
    let mut at = 4;
    std::iter::from_fn(move || {
        let kind = *file.get(at + 4)?;
        let length = u32::from_le_bytes(file.get(at + 9..at + 13)?.try_into().ok()?);
        let event = (kind, at);
        at += usize::try_from(length).ok()?.max(19);
        Some(event)
    })
}

#[tokio::test]
async fn a_change_that_is_longer_than_a_piece_comes_in_parts() -> Result<()> {
    let mut source = Source::start().await?;
    let mut session = tenant(&source.bench).await?;
    session.query_drop("create table large (b longblob)").await?;
    session.query_drop("begin").await?;
    for _ in 0..5 {
        session.query_drop("insert into large values (repeat('x', 8000000))").await?;
    }
    session.query_drop("commit").await?;
    source.ship().await?;
    ensure!(source.shipped.pieces.iter().any(|piece| piece.bytes.len() == PIECE_LIMIT), "it is in one part");
    let other = bench().await?.context("it is installed")?;
    let pieces = &source.shipped.pieces;
    replayed(&other, &source.backup, pieces, None).await.map_err(plain)?;
    let running = starts(&other).await?;
    let sum = "select concat(count(*), ' ', sum(length(b))) from large";
    assert_eq!(one(&mut tenant(&other).await?, sum).await?, "5 40000000");
    running.stop(&other).await?;
    // A part is missing, or a bit of it is another one.
    let mut damaged = pieces.clone();
    damaged[0].bytes[5_000_000] ^= 1;
    let mut without = pieces.clone();
    without.remove(1);
    for (what, pieces) in [("damaged", damaged), ("without", without), ("without its beginning", pieces[1..].to_vec())]
    {
        let refused = replayed(&other, &source.backup, &pieces, None).await.err();
        ensure!(refused.as_ref().is_some_and(|error| error.kind() == Kind::Invalid), "{what}: {refused:?}");
    }
    source.running.stop(&source.bench).await
}

#[tokio::test]
async fn names_and_changes_of_tenants_are_never_statements_of_the_replay() -> Result<()> {
    let mut source = Source::start().await?;
    let mut session = tenant(&source.bench).await?;
    // What a program that writes the log as text puts behind a comment, and one that reads it takes for a statement.
    let name = "`x\nGRANT ALL ON *.* TO app WITH GRANT OPTION;#`";
    for name in [name, "`y\nDROP TABLE ledger;#`"] {
        session.query_drop(format!("create table {name} (word text)")).await?;
        session.query_drop(format!("insert into {name} values ('\\n\\\\! touch x')")).await?;
    }
    // Nor can it say of a change that it is of another time.
    let refused = session.query_drop("set timestamp = 1").await.err().context("it may set the time")?;
    ensure!(refused.to_string().contains("denied"), "{refused}");
    source.write(1).await?;
    source.ship().await?;
    let other = bench().await?.context("it is installed")?;
    replayed(&other, &source.backup, &source.shipped.pieces, None).await.map_err(plain)?;
    let running = starts(&other).await?;
    assert_eq!(numbers(&other).await?, [1]);
    let mut session = tenant(&other).await?;
    ensure!(session.query_drop("select * from mysql.global_priv").await.is_err(), "it has all rights");
    let word: Option<String> = session.query_first(format!("select word from {name}")).await?;
    ensure!(word.as_deref() == Some("\n\\! touch x"), "{word:?}");
    running.stop(&other).await?;
    source.running.stop(&source.bench).await
}

#[tokio::test]
async fn accounts_and_events_are_those_of_the_time_and_the_server_is_another_one() -> Result<()> {
    let mut source = Source::start().await?;
    let mut root = almighty(&source.bench).await?;
    let own = format!("`{}`@localhost", source.bench.site.engine_account);
    for sql in [
        "create event shop.nightly on schedule every 1 day do delete from shop.ledger",
        &format!("alter user {own} identified via mysql_native_password using '*{}'", "0".repeat(40)),
        &format!("revoke super, create user on *.* from {own}"),
    ] {
        root.query_drop(sql).await.context(sql.to_owned())?;
    }
    // Mended past the log, as its account was shut out.
    let _ = ENGINE.engine().probe(&source.bench.site).await;
    source.running.stop(&source.bench).await?;
    ENGINE.engine().repair(&source.bench.site).await.map_err(plain)?;
    source.running = source.bench.spawn(StartMode::Normal)?;
    source.bench.await_answer(&mut source.running).await?;
    make_user(&source.bench, &id("late", "%"), "Late-1", &["shop"]).await?;
    let change = UserChange { password: Some("Secret-2".into()), ..UserChange::default() };
    users().change(&source.bench.site, &id("app", "%"), &change).await.map_err(plain)?;
    source.ship().await?;

    let other = bench().await?.context("it is installed")?;
    replayed(&other, &source.backup, &source.shipped.pieces, None).await.map_err(plain)?;
    let running = starts(&other).await?;
    let mut session = login(&other, "late", "Late-1", Some("shop")).await?;
    ensure!(login(&other, "app", "Secret-1", None).await.is_err(), "the password of before lets in");
    login(&other, "app", "Secret-2", Some("shop")).await?;
    ensure!(root_is_in(&other).await?, "root was enabled at that time");
    let mut root = login(&other, "root", "Root-secret-1", None).await?;
    let events = "select group_concat(event_name, ' ', status order by 1) from information_schema.events";
    assert_eq!(one(&mut root, events).await?, "early ENABLED,nightly SLAVESIDE_DISABLED");
    session.query_drop("insert into ledger values (7, 'here')").await?;
    assert_eq!(one(&mut root, "select concat(@@gtid_slave_pos, @@gtid_binlog_pos)").await?, "0-1-1");
    root_disabled(&other).await?;
    running.stop(&other).await?;
    source.running.stop(&source.bench).await
}

async fn root_is_in(bench: &Bench<'_>) -> Result<bool> {
    root().is_enabled(&bench.site).await.map_err(plain)
}

async fn root_disabled(bench: &Bench<'_>) -> Result<()> {
    root().disable(&bench.site).await.map_err(plain)?;
    ensure!(!root_is_in(bench).await?, "root is in");
    Ok(())
}

/// What was written past the log is not in it. Where what is in it does not fit what is there, nothing is restored.
#[tokio::test]
async fn a_log_that_does_not_fit_the_data_is_refused() -> Result<()> {
    let mut source = Source::start().await?;
    source.write(1).await?;
    source.ship().await?;
    let sound = source.shipped.pieces.clone();
    let mut root = almighty(&source.bench).await?;
    root.query_drop("set sql_log_bin = 0").await?;
    root.query_drop("insert into shop.ledger values (2, 'past the log')").await?;
    root.query_drop("set sql_log_bin = 1").await?;
    root.query_drop("update shop.ledger set word = 'in it' where n = 2").await?;
    source.ship().await?;
    let other = bench().await?.context("it is installed")?;
    let error = replayed(&other, &source.backup, &source.shipped.pieces, None).await.err().context("it is replayed")?;
    let said = error.chain();
    ensure!(error.kind() == Kind::Invalid && said.contains("error 1032") && !said.contains("in it"), "{said}");
    replayed(&other, &source.backup, &sound, None).await.map_err(plain)?;
    starts(&other).await?.stop(&other).await?;
    // The log of another server.
    let theirs = Source::start().await?;
    let refused = replayed(&other, &theirs.backup, &source.shipped.pieces, None).await.err();
    ensure!(refused.as_ref().is_some_and(|error| error.kind() == Kind::Invalid), "{refused:?}");
    theirs.running.stop(&theirs.bench).await?;
    source.running.stop(&source.bench).await
}
