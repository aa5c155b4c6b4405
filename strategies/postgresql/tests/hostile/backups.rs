//! Backups of a server whose tenant wants them to fail, to reach further or to bring something along.

use std::io::Cursor;
use std::pin::Pin;
use std::task::{Context as Waker, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::AsyncWrite;
use tokio::sync::Notify;
use tokio_postgres::Client;
use trove_conformance::Bench;
use trove_strategy::{Backup, Command, Datastore, EngineError, Kind, Settings, Site, StartMode};

use super::{POSTGRESQL, as_root, make_user, plain, text};

fn backups() -> &'static dyn Backup {
    &POSTGRESQL
}

async fn taken(site: &Site) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    let taken = backups().take(site, &mut bytes).await.map_err(plain)?;
    ensure!(taken.position.is_some_and(|position| position.contains('/')), "it has no position");
    Ok(bytes.into_inner())
}

async fn refused(site: &Site, bytes: Vec<u8>) -> Result<String> {
    let refused = backups().restore(site, &mut Cursor::new(bytes)).await;
    let Err(error) = refused else { bail!("it is restored") };
    ensure!(error.kind() == Kind::Invalid, "{}", error.chain());
    let left = ["data", "data.new"].map(|name| site.data.with_file_name(name).exists());
    ensure!(left == [false, false], "what was refused is there: {left:?}");
    Ok(error.chain())
}

/// A storage that takes nothing, and says that it was asked.
struct Stands(std::sync::Arc<Notify>);

impl AsyncWrite for Stands {
    fn poll_write(self: Pin<&mut Self>, _: &mut Waker<'_>, _: &[u8]) -> Poll<std::io::Result<usize>> {
        self.0.notify_one();
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Waker<'_>) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Waker<'_>) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

async fn nothing_is_left(root: &Client) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    let asked =
        "select (select count(*) from pg_replication_slots) || ' ' || (select count(*) from pg_stat_replication)";
    loop {
        let left = text(root, asked).await?;
        if left == "0 0" {
            return Ok(());
        }
        ensure!(Instant::now() < end, "slots and senders: {left}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_backup_that_is_given_up_leaves_no_slot() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let root = as_root(&bench.site, "postgres").await?;
    let asked = std::sync::Arc::new(Notify::new());
    let mut stands = Stands(asked.clone());
    tokio::select! {
        _ = backups().take(&bench.site, &mut stands) => bail!("it ends though nothing is taken"),
        () = asked.notified() => {}
    }
    nothing_is_left(&root).await?;
    drop(root);
    running.stop(&bench).await
}

#[tokio::test]
async fn a_storage_that_stands_does_not_fill_the_disk_with_the_log() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let root = as_root(&bench.site, "postgres").await?;
    let asked = std::sync::Arc::new(Notify::new());
    let mut stands = Stands(asked.clone());
    let write = async {
        asked.notified().await;
        ensure!(text(&root, "select count(*) from pg_replication_slots where temporary").await? == "1", "no slot");
        // As an ordinary tenant's writes would, segment by segment.
        for _ in 0..20 {
            root.batch_execute("select pg_logical_emit_message(false, 'x', 'x'); select pg_switch_wal()").await?;
        }
        root.batch_execute("checkpoint").await?;
        Ok(())
    };
    let limit = Duration::from_secs(60);
    let both = async { tokio::join!(backups().take(&bench.site, &mut stands), write) };
    let (refused, written) = tokio::time::timeout(limit, both).await.context("it waits for ever")?;
    written?;
    let said = refused.as_ref().err().map(EngineError::chain).unwrap_or_default();
    ensure!(said.contains("more than 256 MiB"), "{said}");
    ensure!(refused.is_err_and(|error| error.kind() == Kind::Transient), "it is not to be tried again");
    nothing_is_left(&root).await?;
    taken(&bench.site).await.context("once the storage takes it")?;
    drop(root);
    running.stop(&bench).await
}

#[tokio::test]
async fn tablespaces_are_refused_by_name() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let root = as_root(&bench.site, "postgres").await?;
    root.batch_execute("set allow_in_place_tablespaces = on").await?;
    root.batch_execute("create tablespace \"of mine\" location ''").await?;
    let refused = backups().take(&bench.site, &mut Cursor::new(Vec::new())).await.err();
    let said = refused.as_ref().map(EngineError::chain).unwrap_or_default();
    ensure!(said.contains("tablespaces of its own (\"of mine\")"), "{said}");
    ensure!(refused.is_some_and(|error| error.kind() == Kind::Invalid), "not said to be the tenant's to mend");
    root.batch_execute("drop tablespace \"of mine\"").await?;
    taken(&bench.site).await?;
    drop(root);
    running.stop(&bench).await
}

/// What the tool of the server's says as this account.
fn copied(site: &Site, user: &str, password: &str, host: &str) -> Result<String> {
    let output = std::process::Command::new(site.installation.bindir.join("pg_basebackup"))
        .args(["--pgdata=-", "--format=tar", "--wal-method=fetch", "--checkpoint=fast", "--no-password"])
        .args([format!("--username={user}"), format!("--host={host}"), format!("--port={}", site.port)])
        .env("PGPASSWORD", password)
        .output()?;
    ensure!(!output.status.success(), "{user} gets a copy over {host}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn only_the_agent_copies_the_server() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let site = &bench.site;
    make_user(site, "ann", &[]).await?;
    let root = as_root(site, "postgres").await?;
    root.batch_execute("alter role ann replication; create role copier superuser replication login password 'x'")
        .await?;
    for (user, password) in [("ann", "Secret-1"), ("root", "Root-secret-1"), ("copier", "x"), ("os_admin", "x")] {
        let said = copied(site, user, password, &site.address.to_string())?;
        ensure!(said.contains("pg_hba.conf rejects replication connection"), "{user} over the network: {said}");
        if user != "os_admin" {
            let said = copied(site, user, password, &site.run.to_string_lossy())?;
            ensure!(said.contains("no pg_hba.conf entry for replication"), "{user} over the socket: {said}");
        }
    }
    if site.engine_account != site.agent_account {
        // A tenant with a shell has the account of the engine.
        let tool = Command::engine(site.installation.bindir.join("pg_basebackup"));
        let tool = tool.arg("--pgdata=-").arg("--format=tar").arg("--wal-method=fetch").arg("--username=os_admin");
        let tool = tool.arg(format!("--host={}", site.run.to_string_lossy())).arg(format!("--port={}", site.port));
        let said = site.host.run(tool.arg("--no-password")).await.err().map(|error| error.to_string());
        ensure!(said.as_ref().is_some_and(|said| said.contains("Peer authentication failed")), "{said:?}");
    }
    drop(root);
    running.stop(&bench).await
}

#[tokio::test]
async fn what_a_tenant_put_into_the_directory_does_not_make_a_restored_server_another_one() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let root = as_root(&bench.site, "postgres").await?;
    root.batch_execute("alter system set work_mem = '9MB'").await?;
    root.batch_execute("alter system set restore_command = 'touch restored'").await?;
    root.batch_execute(
        "copy (select 1) to program 'touch standby.signal recovery.signal tablespace_map; ln -s /etc a'",
    )
    .await?;
    let bytes = taken(&bench.site).await?;
    drop(root);

    let other = Bench::new(&POSTGRESQL).await?;
    backups().restore(&other.site, &mut Cursor::new(bytes)).await.map_err(plain)?;
    let engine = POSTGRESQL.engine();
    engine.initialise(&other.site).await.map_err(plain)?;
    engine.configure(&other.site, &Settings::default()).await.map_err(plain)?;
    let mut restored = other.spawn(StartMode::Normal)?;
    other.await_answer(&mut restored).await?;
    let root = as_root(&other.site, "postgres").await?;
    ensure!(text(&root, "select pg_is_in_recovery()").await? == "f", "it follows another one");
    ensure!(text(&root, "show work_mem").await? == "9MB", "what ALTER SYSTEM set is gone");
    for name in ["restored", "a", "backup_manifest"] {
        ensure!(!other.site.data.join(name).exists(), "{name} came back");
    }
    drop(root);
    restored.stop(&other).await?;
    running.stop(&bench).await
}

/// An archive that the system's tar makes of what a shell makes.
fn archive(bench: &Bench<'_>, make: &str, names: &[&str]) -> Result<Vec<u8>> {
    let place = bench.scratch().join("made");
    std::fs::create_dir_all(&place)?;
    let made = std::process::Command::new("sh").args(["-ec", make]).current_dir(&place).status()?;
    ensure!(made.success(), "{make}");
    let output = std::process::Command::new("tar")
        .args(["--create", "--format=ustar", "--absolute-names", "--no-recursion", "--file=-"])
        .args(names)
        .current_dir(&place)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

#[tokio::test]
async fn archives_that_lead_out_of_the_directory_are_refused() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    for (make, names, reason) in [
        ("ln -s /etc link", ["link", "link"], "neither a file nor a directory"),
        ("echo x > file; ln file second", ["file", "second"], "neither a file nor a directory"),
        ("mkfifo pipe", ["pipe", "pipe"], "neither a file nor a directory"),
        ("mkdir -p in; echo x > out", ["in/../out", "in"], "leads out of the data directory"),
        ("true", ["/etc/hostname", "/etc/hostname"], "leads out of the data directory"),
        ("mkdir -p empty", ["empty", "empty"], "it is of version \"\""),
    ] {
        let said = refused(&bench.site, archive(&bench, make, &names)?).await.context(make)?;
        ensure!(said.contains(reason), "{make}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_backup_of_another_version_or_with_another_byte_is_refused() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let bytes = taken(&bench.site).await?;
    running.stop(&bench).await?;
    let mut other = Bench::new(&POSTGRESQL).await?;
    // Near the end is the log, of which the last segment has a rest that nobody reads.
    for place in [bytes.len() / 4, bytes.len() / 2] {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1;
        refused(&other.site, damaged).await.with_context(|| format!("byte {place} of {}", bytes.len()))?;
    }
    other.site.installation.major = "9".to_owned();
    let said = refused(&other.site, bytes).await?;
    ensure!(said.contains("and 9 is installed"), "{said}");
    Ok(())
}

#[tokio::test]
async fn the_check_names_an_index_that_lacks_rows_and_tenants_settings_do_not_stop_it() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let root = as_root(&bench.site, "postgres").await?;
    root.batch_execute(
        "create table t (n int); insert into t select generate_series(1, 1000); create index lacking on t (n)",
    )
    .await?;
    for set in ["default_transaction_read_only = on", "statement_timeout = '1ms'"] {
        root.batch_execute(&format!("alter database postgres set {set}")).await?;
    }
    backups().check(&bench.site).await.map_err(plain).context("a sound server")?;
    for sql in [
        "update pg_index set indisready = false where indexrelid = 'lacking'::regclass",
        "insert into t select generate_series(1001, 1010)",
        "update pg_index set indisready = true where indexrelid = 'lacking'::regclass",
    ] {
        root.batch_execute(sql).await?;
    }
    let Err(error) = backups().check(&bench.site).await else { bail!("nothing is found") };
    ensure!(error.kind() == Kind::Invalid && error.chain().contains("\"lacking\""), "{}", error.chain());
    ensure!(error.chain().len() < 1100, "{}", error.chain());
    drop(root);
    running.stop(&bench).await
}
