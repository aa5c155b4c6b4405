//! A backup becomes the state of any later moment, and of none that is not known.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use trove_conformance::Bench;
use trove_strategy::{Directory, Kind, LogPiece};

use super::ledger::Ledger;
use super::{POSTGRESQL, Shipped, as_root, logs, plain, replayed, starts, taken, texts};

/// Replays, starts, looks, and stops.
async fn comes_back(
    bench: &Bench<'_>,
    ledger: &Ledger,
    until: Option<SystemTime>,
    (as_of, later): (SystemTime, bool),
) -> Result<()> {
    replayed(bench, &ledger.backup, &ledger.shipped.pieces, until).await.map_err(plain)?;
    let running = starts(bench).await?;
    let root = as_root(&bench.site).await?;
    ledger.is_as_of(&root, as_of, later).await?;
    ensure!(texts(&root, "show hot_standby").await? == ["on"], "the replay's settings are in force");
    root.batch_execute("insert into ledger values (-1, '')").await.context("it takes writes")?;
    drop(root);
    running.stop(bench).await
}

#[tokio::test]
async fn a_backup_becomes_the_state_of_any_moment_after_it() -> Result<()> {
    let (bench, other) = (Bench::new(&POSTGRESQL).await?, Bench::new(&POSTGRESQL).await?);
    let running = bench.start().await?;
    let ledger = Ledger::write(&bench, 0).await?;
    comes_back(&other, &ledger, Some(ledger.middle), (ledger.middle, false)).await.context("in the middle")?;
    comes_back(&other, &ledger, None, (ledger.closing, true)).await.context("to the end")?;
    let later = ledger.rows.last().context("rows")?.acknowledged + Duration::from_secs(60);
    comes_back(&other, &ledger, Some(later), (ledger.closing, true)).await.context("after the last commit")?;
    running.stop(&bench).await
}

/// What is not replayed, with the reason, which the caller is told.
async fn refused(bench: &Bench<'_>, ledger: &Ledger, pieces: &[LogPiece], until: Option<SystemTime>) -> Result<String> {
    let Err(error) = replayed(bench, &ledger.backup, pieces, until).await else { bail!("it is replayed") };
    ensure!(error.kind() == Kind::Invalid, "{:?}: {}", error.kind(), error.chain());
    Ok(error.chain())
}

#[tokio::test]
async fn what_cannot_be_replayed_is_refused_with_a_reason() -> Result<()> {
    let (bench, other) = (Bench::new(&POSTGRESQL).await?, Bench::new(&POSTGRESQL).await?);
    let running = bench.start().await?;
    let ledger = Ledger::write(&bench, 0).await?;
    running.stop(&bench).await?;
    let pieces = &ledger.shipped.pieces;
    for time in [ledger.before, SystemTime::UNIX_EPOCH] {
        let said = refused(&other, &ledger, pieces, Some(time)).await?;
        ensure!(said.contains("the backup had not ended at that time"), "{said}");
    }

    let last = pieces.len() - 1;
    let mut lacking = pieces.clone();
    let missing = lacking.remove(last - 1).from;
    let said = refused(&other, &ledger, &lacking, None).await?;
    ensure!(said.contains(&format!("{missing} is missing")), "{said}");
    // Not even the first is there that follows the backup's own log.
    let said = refused(&other, &ledger, &pieces[last..], None).await?;
    ensure!(said.contains("the log breaks off at") && said.contains("is missing or damaged"), "{said}");

    Ok(())
}

#[tokio::test]
async fn a_damaged_piece_is_not_taken_for_the_end_of_the_log() -> Result<()> {
    let (bench, other) = (Bench::new(&POSTGRESQL).await?, Bench::new(&POSTGRESQL).await?);
    let running = bench.start().await?;
    let ledger = Ledger::write(&bench, 0).await?;
    running.stop(&bench).await?;
    let pieces = &ledger.shipped.pieces;
    let last = pieces.len() - 1;
    for (number, until) in [(last - 1, None), (last, Some(SystemTime::now()))] {
        let mut damaged = pieces.clone();
        // In the middle of what was written: what follows is filled with zeros.
        let bytes = &mut damaged[number].bytes;
        let end = bytes.iter().rposition(|byte| *byte != 0).context("an empty piece")?;
        // More than what is between two records and in no sum.
        bytes[end / 2..][..64].iter_mut().for_each(|byte| *byte ^= 0xff);
        let said = refused(&other, &ledger, &damaged, until).await?;
        ensure!(said.contains(&format!("the segment {}", pieces[number].from)), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_piece_is_not_taken() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let mut shipped = Shipped::begin(&bench.site).await?;
    as_root(&bench.site).await?.batch_execute("create table t (n int)").await?;
    shipped.ship(&bench.site).await.map_err(plain)?;
    running.stop(&bench).await?;
    let piece = &shipped.pieces[0];
    let with = |from: &str, until: &str, bytes: &[u8]| LogPiece {
        from: from.to_owned(),
        until: until.to_owned(),
        bytes: bytes.to_vec(),
    };
    let (from, until, bytes) = (piece.from.as_str(), piece.until.as_str(), piece.bytes.as_slice());
    let mut zeroed = bytes.to_vec();
    zeroed[..40].fill(0);
    for (wrong, reason) in [
        (with("../../../etc/passwd", until, bytes), "is no name of a segment"),
        (with(&format!("{from}.partial"), until, bytes), "is no name of a segment"),
        (with(&"\u{fc}".repeat(4000), until, bytes), "is no name of a segment"),
        (with(from, from, bytes), "it does not end at"),
        (with(from, until, &bytes[1..]), "bytes"),
        (with(from, until, &[]), "it has 0 bytes"),
        (with(until, "000000010000000000000099", bytes), "it does not end at"),
        (with("000000010000000000000098", "000000010000000000000099", bytes), "it holds another segment"),
        (with(from, until, &zeroed), "it has no header"),
    ] {
        let Err(error) = logs().take(&bench.site, wrong).await else { bail!("taken: {reason}") };
        ensure!(error.kind() == Kind::Invalid && error.chain().contains(reason), "{}", error.chain());
        ensure!(error.chain().len() < 3000, "{} bytes", error.chain().len());
    }
    Ok(())
}

/// A segment that fills up is closed by that, and the record at its end goes on in the next one, which is not there.
#[tokio::test]
async fn segments_that_filled_up_are_replayed_to_the_last_whole_record() -> Result<()> {
    let (bench, other) = (Bench::new(&POSTGRESQL).await?, Bench::new(&POSTGRESQL).await?);
    let running = bench.start().await?;
    let site = &bench.site;
    let mut shipped = Shipped::begin(site).await?;
    let backup = taken(site).await?;
    let root = as_root(site).await?;
    root.batch_execute("create table t (n int, filler text)").await?;
    let fill = "insert into t select n, repeat(md5(n::text), 10) from generate_series(1, 50000) n";
    root.batch_execute(fill).await?;
    shipped.drain(site).await.map_err(plain)?;
    let count = shipped.pieces.len();
    ensure!(count > 1, "{count} pieces are closed");
    // A record that does not fit into one segment, or two.
    let message = "select pg_logical_emit_message(false, 'x', repeat('x', 40 << 20))";
    root.batch_execute(message).await?;
    shipped.drain(site).await.map_err(plain)?;
    ensure!(shipped.pieces.len() >= count + 2, "{} pieces", shipped.pieces.len());
    running.stop(&bench).await?;
    for end in [count, count + 1, shipped.pieces.len()] {
        let pieces = &shipped.pieces[..end];
        replayed(&other, &backup, pieces, None).await.map_err(plain).with_context(|| format!("{end} pieces"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_was_replayed_ships_its_own_log_and_is_replayed_again() -> Result<()> {
    let (bench, other) = (Bench::new(&POSTGRESQL).await?, Bench::new(&POSTGRESQL).await?);
    let running = bench.start().await?;
    let first = Ledger::write(&bench, 0).await?;
    replayed(&other, &first.backup, &first.shipped.pieces, Some(first.middle)).await.map_err(plain)?;
    let restored = starts(&other).await?;
    let second = Ledger::write(&other, 1_000_000).await?;
    let names: Vec<&str> = second.shipped.pieces.iter().map(|piece| piece.from.as_str()).collect();
    ensure!(names.iter().all(|name| name.starts_with("00000002")), "{names:?}");
    // The first one's log does not go on here.
    let gone = logs().piece(&other.site, &first.shipped.next).await.err();
    ensure!(gone.as_ref().is_some_and(|error| error.kind() == Kind::Gone), "{gone:?}");
    restored.stop(&other).await?;
    running.stop(&bench).await?;
    bench.site.host.remove(&Directory::Data.join("data")).await?;
    for (until, as_of, later) in [(Some(second.middle), second.middle, false), (None, second.closing, true)] {
        replayed(&bench, &second.backup, &second.shipped.pieces, until).await.map_err(plain)?;
        let running = starts(&bench).await?;
        let root = as_root(&bench.site).await?;
        second.is_as_of(&root, as_of, later).await?;
        let of_first = "select count(*) > 0 from ledger where number < 1000000";
        ensure!(texts(&root, of_first).await? == ["t"], "the first one's rows are gone");
        drop(root);
        running.stop(&bench).await?;
    }
    Ok(())
}
