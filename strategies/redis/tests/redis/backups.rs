//! Backups while root has snapshots of its own made, and backups that somebody has changed.

use std::io::{self, Cursor};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context as Waker, Poll};

use anyhow::{Result, bail, ensure};
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;
use trove_conformance::{Bench, Running};
use trove_strategy::{Backup, Datastore, Directory, Kind, Owner, Root, Settings, Site, StartMode};

use super::{REDIS, await_that, cli, make_user, plain};

fn backups() -> &'static dyn Backup {
    &REDIS
}

/// A storage that stands still until it is opened.
struct Gate {
    bytes: Cursor<Vec<u8>>,
    came: Option<oneshot::Sender<()>>,
    open: Option<oneshot::Receiver<()>>,
}

impl AsyncWrite for Gate {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Waker<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(came) = self.came.take() {
            let _ = came.send(());
        }
        if let Some(open) = self.open.as_mut() {
            if Pin::new(open).poll(context).is_pending() {
                return Poll::Pending;
            }
            self.open = None;
        }
        Pin::new(&mut self.bytes).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Waker<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Waker<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

async fn taken(site: &Site) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    backups().take(site, &mut bytes).await.map_err(plain)?;
    Ok(bytes.into_inner())
}

async fn restored(bench: &Bench<'_>, bytes: Vec<u8>) -> Result<Running> {
    backups().restore(&bench.site, &mut Cursor::new(bytes)).await.map_err(plain)?;
    let engine = REDIS.engine();
    engine.initialise(&bench.site).await.map_err(plain)?;
    engine.configure(&bench.site, &Settings::default()).await.map_err(plain)?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    Ok(running)
}

#[tokio::test]
async fn snapshots_of_roots_do_not_get_into_a_backup_that_is_being_read() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    REDIS.enable(&bench.site, &"Root-secret-1".to_owned().into()).await.map_err(plain)?;
    let root = cli(&bench, Some(("default", "Root-secret-1")));
    root.run(&["SET", "before", "1"])?;
    let ((came, comes), (opener, open)) = (oneshot::channel(), oneshot::channel());
    let mut gate = Gate { bytes: Cursor::default(), came: Some(came), open: Some(open) };
    let meanwhile = async {
        comes.await?;
        let fill = "for n = 1, 90000 do redis.call('SET', n, n) end";
        root.run(&["EVAL", fill, "0"])?;
        root.run(&["BGSAVE"])?;
        await_that("the snapshot", async || Ok(root.run(&["INFO", "persistence"])?.contains("bgsave_in_progress:0")))
            .await?;
        ensure!(bench.site.data.join("dump.rdb").exists(), "root has no snapshot");
        let _ = opener.send(());
        Ok(())
    };
    let (done, meanwhile) = tokio::join!(backups().take(&bench.site, &mut gate), meanwhile);
    meanwhile?;
    done.map_err(plain)?;
    ensure!(!bench.site.data.join("backup.rdb").exists(), "the file of the backup is left");
    running.stop(&bench).await?;

    let other = Bench::new(&REDIS).await?;
    let running = restored(&other, gate.bytes.into_inner()).await?;
    let root = cli(&other, Some(("default", "Root-secret-1")));
    assert_eq!(root.run(&["DBSIZE"])?, "1");
    running.stop(&other).await
}

#[tokio::test]
async fn a_backup_says_how_much_memory_its_data_took_however_short_it_is() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    let large = ["SETRANGE", "large", "99999999", "x"];
    ensure!(cli(&bench, Some(("app", "Secret-1"))).run(&large)? == "100000000");
    let mut bytes = Cursor::new(Vec::new());
    let taken = backups().take(&bench.site, &mut bytes).await.map_err(plain)?;
    let (stored, memory) = (bytes.into_inner().len(), taken.memory_bytes.unwrap_or_default());
    ensure!(stored < 10_000_000 && (100_000_000..200_000_000).contains(&memory), "{memory} in {stored}");
    running.stop(&bench).await
}

/// Bytes of all files below.
fn size(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

#[tokio::test]
async fn what_is_restored_is_on_the_volume_once_and_goes_on_as_the_log_of_writes() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    let app = cli(&bench, Some(("app", "Secret-1")));
    // Of what does not become less.
    let fill = "for n = 1, 90000 do redis.call('SET', n, redis.sha1hex(n)) end";
    app.run(&["EVAL", fill, "0"])?;
    app.run(&["SET", "short", "lived", "PX", "1"])?;
    let bytes = taken(&bench.site).await?;
    running.stop(&bench).await?;

    let other = Bench::new(&REDIS).await?;
    let most = bytes.len() as u64 * 11 / 10;
    let running = restored(&other, bytes).await?;
    let whole = size(&other.site.data)?;
    ensure!(whole <= most, "{whole} bytes are there of {most}");
    let app = cli(&other, Some(("app", "Secret-1")));
    assert_eq!(app.run(&["GET", "short"])?, "");
    app.run(&["SET", "later", "too"])?;
    running.kill()?;
    REDIS.engine().configure(&other.site, &Settings::default()).await.map_err(plain)?;
    let mut running = other.spawn(StartMode::Normal)?;
    other.await_answer(&mut running).await?;
    assert_eq!(app.run(&["MGET", "90000", "later"])?.lines().last(), Some("too"));
    running.stop(&other).await
}

#[tokio::test]
async fn the_file_of_a_backup_that_was_given_up_goes_then_or_at_the_next_start_of_the_agent() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    let left = bench.site.data.join("backup.rdb");
    let ((came, comes), (opener, open)) = (oneshot::channel(), oneshot::channel());
    let mut gate = Gate { bytes: Cursor::default(), came: Some(came), open: Some(open) };
    let configure = async || REDIS.engine().configure(&bench.site, &Settings::default()).await.map_err(plain);
    let given_up = async {
        comes.await?;
        configure().await?;
        ensure!(left.exists(), "it was removed while it is read");
        Ok(())
    };
    tokio::select! {
        taken = backups().take(&bench.site, &mut gate) => bail!("it has ended: {taken:?}"),
        given_up = given_up => given_up?,
    }
    drop(opener);
    await_that("the end of it", async || Ok(!left.exists())).await?;
    // An agent that was killed had no time for that.
    std::fs::write(&left, "of an earlier life")?;
    configure().await?;
    ensure!(!left.exists(), "it is left");
    running.stop(&bench).await
}

#[tokio::test]
async fn a_snapshot_that_the_server_cannot_write_is_said_at_once() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    // No file takes the place of a directory.
    let snapshot = Directory::Data.join("data/dump.rdb");
    bench.site.host.make_directory(&snapshot, 0o700, Owner::Engine).await?;
    let limit = std::time::Duration::from_secs(60);
    let mut bytes = Cursor::new(Vec::new());
    let refused = tokio::time::timeout(limit, backups().take(&bench.site, &mut bytes)).await?;
    ensure!(refused.is_err_and(|error| error.chain().contains("cannot write a snapshot")), "it says that it is done");
    bench.site.host.remove(&snapshot).await?;
    taken(&bench.site).await?;
    running.stop(&bench).await
}

#[tokio::test]
async fn what_somebody_has_changed_is_refused_or_gives_no_rights() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    cli(&bench, Some(("app", "Secret-1"))).run(&["SET", "key", "a value of some length"])?;
    let bytes = taken(&bench.site).await?;
    running.stop(&bench).await?;

    let other = Bench::new(&REDIS).await?;
    let value = bytes.windows(7).position(|word| word == b"a value").expect("it is in the snapshot");
    let magic = bytes.windows(5).position(|word| word == b"REDIS").expect("it begins so");
    for (place, byte) in [(value, b'b'), (magic, b'X'), (magic + 5, b'9'), (bytes.len() - 1, !bytes[bytes.len() - 1])] {
        let mut damaged = bytes.clone();
        damaged[place] = byte;
        match backups().restore(&other.site, &mut Cursor::new(damaged)).await {
            Err(error) => ensure!(error.kind() == Kind::Invalid, "byte {place}: {}", error.chain()),
            Ok(()) => bail!("byte {place} is another one, and it is restored"),
        }
        ensure!(!other.site.data.exists() && !other.site.data.with_file_name("data.new").exists(), "byte {place}");
    }
    let longer = [bytes.clone(), b"x".to_vec()].concat();
    ensure!(backups().restore(&other.site, &mut Cursor::new(longer)).await.is_err(), "something follows it");

    // Accounts that no tenant could have made here.
    let line = bytes.iter().position(|byte| *byte == b'\n').expect("there is a first line") + 1;
    let first = String::from_utf8_lossy(&bytes[..line]).into_owned();
    let words: Vec<&str> = first.split_whitespace().collect();
    let more = "user thief on nopass ~* &* +@all\nuser os_admin on nopass ~* &* +@all\n";
    let first = format!("{} {} {}\n", words[0], words[1].parse::<usize>()? + more.len(), words[2]);
    let forged = [first.as_bytes(), more.as_bytes(), &bytes[line..]].concat();
    let running = restored(&other, forged).await?;
    let thief = cli(&other, Some(("thief", "any")));
    let said = thief.run(&["CONFIG", "SET", "appendonly", "no"])?;
    ensure!(said.contains("NOPERM"), "{said}");
    let said = cli(&other, Some(("os_admin", "any"))).run(&["PING"])?;
    ensure!(said.contains("WRONGPASS"), "{said}");
    running.stop(&other).await
}
