//! Backups: the accounts and a snapshot, behind a line that says how long each is.
//!
//! The server writes the snapshot to a file, and the file is read as fast as the storage takes it. The protocol of
//! replicas would give the same bytes without a file; but while the storage stands still the server would keep in
//! memory what tenants write.
//!
//! A restore makes the snapshot the beginning of the log of writes, which it is already but for its name: the server reads it
//! as such, and the data is on the volume once (documentation, "Persistence": since 7.0 the log is a base file, which may be an
//! RDB file, files of increments, and a manifest that names them; one without increments is given the first by the server).

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trove_strategy::{
    Backup, Command, Directory, EngineError, File, HostError, Kind, Location, Owner, Piece, PourError, Sink, Site,
    Source, Taken, pour,
};

use crate::client::Session;
use crate::engine::{info, used_memory};
use crate::{Redis, acl, config};

/// A storage may be slow; a job's own deadline comes first.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// A snapshot of a large server takes minutes.
const SNAPSHOT: Duration = Duration::from_secs(3600);
/// The server tells nobody when a snapshot is done.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// What is in memory at once.
const BUFFER: usize = 1 << 20;

const TAKE: &str = "take a backup";
const RESTORE: &str = "restore a backup";

/// The first word of a backup.
const FORMAT: &str = "trove-redis-1";
/// The longest first line.
const LINE: usize = 80;

fn snapshot() -> Location {
    Directory::Data.join("data/dump.rdb")
}

/// The snapshot while it is read: root may have the server write another one meanwhile.
fn kept() -> Location {
    Directory::Data.join("data/backup.rdb")
}

fn unfinished(name: &str) -> Location {
    Directory::Data.join(format!("data.new/{name}"))
}

/// The directory of the log of writes, its first file, and the file that names it.
const LOG: &str = "appendonlydir";
const BASE: &str = "appendonly.aof.1.base.rdb";
const LIST: &str = "appendonly.aof.manifest";

/// The file of a backup, which is removed when the backup is dropped half-way.
struct Left<'a>(Option<&'a Site>);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        let Some(site) = self.0.take().cloned() else { return };
        tokio::spawn(async move {
            // Where it fails, the next start of the agent removes it, or the next backup.
            let _ = forget(&site).await;
        });
    }
}

/// Removes what a backup left that was cut off.
pub(crate) async fn forget(site: &Site) -> Result<(), EngineError> {
    Ok(site.host.remove(&kept()).await?)
}

#[async_trait]
impl Backup for Redis {
    async fn take(&self, site: &Site, sink: &mut Sink) -> Result<Taken, EngineError> {
        let _taking = self.taking.read().await;
        forget(site).await?;
        let accounts = acl::of_others(site, &self.held.saving).await?;
        let mut session = self.held.session(site).await?;
        let saved = tokio::time::timeout(SNAPSHOT, save(&mut session)).await;
        let memory = saved
            .map_err(|_| EngineError::new(Kind::Transient, format!("{TAKE}: the snapshot is not done in time")))??;
        let mut left = Left(Some(site));
        site.host.rename(&snapshot(), &kept()).await?;
        let written = write(site, &accounts, sink).await;
        // What is left is removed by the next call, too.
        let removed = forget(site).await;
        left.0 = None;
        written?;
        removed?;
        let mut taken = Taken::default();
        // What the server needs for itself, and a write beyond the limit, keep no data out of a host as large as this one.
        taken.memory_bytes = Some(memory.min(config::memory_mib(site.size) << 20));
        Ok(taken)
    }

    async fn restore(&self, site: &Site, source: &mut Source) -> Result<(), EngineError> {
        let new = Directory::Data.join("data.new");
        site.host.remove(&new).await?;
        site.host.make_directory(&new, 0o700, Owner::Engine).await?;
        if let Err(error) = read(self, site, source).await {
            // What is in the way is removed by the next call, too.
            let _ = site.host.remove(&new).await;
            return Err(error);
        }
        Ok(site.host.rename(&new, &Directory::Data.join("data")).await?)
    }
}

/// Has the server write a snapshot that begins after this call. Answers the memory in use before.
async fn save(session: &mut Session) -> Result<u64, EngineError> {
    let (before, memory) = loop {
        let info = info(session, TAKE).await?;
        if number(&info, "rdb_bgsave_in_progress") == 0 {
            break (number(&info, "rdb_saves"), used_memory(&info, TAKE)?);
        }
        tokio::time::sleep(ASK_AGAIN).await;
    };
    // Begins later where the log of writes is being written anew.
    session.ask::<String>(TAKE, redis::cmd("BGSAVE").arg("SCHEDULE")).await?;
    loop {
        let info = info(session, TAKE).await?;
        // It counts those that were begun.
        if number(&info, "rdb_saves") > before && number(&info, "rdb_bgsave_in_progress") == 0 {
            let well = info.get("rdb_last_bgsave_status").is_some_and(|status| status == "ok");
            let failed = || EngineError::new(Kind::Transient, format!("{TAKE}: the server cannot write a snapshot"));
            return if well { Ok(memory) } else { Err(failed()) };
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

fn number(info: &std::collections::BTreeMap<String, String>, name: &str) -> u64 {
    info.get(name).and_then(|value| value.parse().ok()).unwrap_or_default()
}

async fn write(site: &Site, accounts: &str, sink: &mut Sink) -> Result<(), EngineError> {
    let broken = |error: io::Error| EngineError::caused(Kind::Transient, format!("{TAKE}: hand it on"), error);
    let Piece { size, .. } = piece(site, 0, 0).await?;
    let line = format!("{FORMAT} {} {size}\n", accounts.len());
    sink.write_all(line.as_bytes()).await.map_err(broken)?;
    sink.write_all(accounts.as_bytes()).await.map_err(broken)?;
    let mut offset = 0;
    while offset < size {
        let piece = piece(site, offset, BUFFER).await?;
        if piece.size != size || piece.bytes.is_empty() {
            return Err(EngineError::new(Kind::Transient, format!("{TAKE}: the snapshot was changed meanwhile")));
        }
        offset += piece.bytes.len() as u64;
        sink.write_all(&piece.bytes).await.map_err(broken)?;
    }
    sink.flush().await.map_err(broken)
}

async fn piece(site: &Site, offset: u64, limit: usize) -> Result<Piece, EngineError> {
    let piece = site.host.read_at(&kept(), offset, limit).await?;
    piece.ok_or_else(|| EngineError::new(Kind::Transient, format!("{TAKE}: the snapshot was removed meanwhile")))
}

fn invalid(reason: impl std::fmt::Display) -> EngineError {
    EngineError::new(Kind::Invalid, format!("{RESTORE}: {reason}"))
}

/// An end that comes too early is the backup's fault, and everything else the storage's.
fn unread(error: io::Error) -> EngineError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => invalid("it ends before its end"),
        _ => EngineError::caused(Kind::Transient, format!("{RESTORE}: read it"), error),
    }
}

/// How long the accounts and the snapshot are.
async fn lengths(source: &mut Source) -> Result<(u64, u64), EngineError> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        if line.len() >= LINE {
            return Err(invalid("it is no backup of this engine"));
        }
        line.push(source.read_u8().await.map_err(unread)?);
    }
    parsed(&String::from_utf8_lossy(&line)).ok_or_else(|| invalid("it is no backup of this engine"))
}

fn parsed(line: &str) -> Option<(u64, u64)> {
    let [FORMAT, accounts, snapshot] = line.split_whitespace().collect::<Vec<_>>()[..] else { return None };
    Some((accounts.parse().ok().filter(|length| *length <= acl::FILE_BYTES)?, snapshot.parse().ok()?))
}

/// Unpacks into the unfinished directory and looks at what it is.
async fn read(redis: &Redis, site: &Site, source: &mut Source) -> Result<(), EngineError> {
    let (accounts, length) = lengths(source).await?;
    let mut text = Vec::new();
    let found = (&mut *source).take(accounts).read_to_end(&mut text).await.map_err(unread)?;
    if found as u64 != accounts {
        return Err(invalid("it ends before its end"));
    }
    site.host.make_directory(&unfinished(LOG), 0o700, Owner::Engine).await?;
    let base = unfinished(&format!("{LOG}/{BASE}"));
    let place = site.path(&base).to_string_lossy().into_owned();
    let keep = Command::engine("/bin/dd").arg(format!("of={place}")).arg("bs=256K").arg("iflag=fullblock");
    let mut kept = site.host.write_to(keep.arg("conv=excl,fsync").arg("status=none").deadline(LIMIT)).await?;
    let mut left = length;
    let count = |bytes: &[u8]| {
        left = left.checked_sub(bytes.len() as u64).ok_or("something follows its end")?;
        Ok(())
    };
    pour(source, &mut kept, count).await.map_err(|broken| match broken {
        PourError::Read(error) => unread(error),
        PourError::Write(error) => EngineError::caused(Kind::Fatal, format!("{RESTORE}: write it"), error),
        PourError::Refused(reason) => invalid(reason),
    })?;
    if left > 0 {
        return Err(invalid("it ends before its end"));
    }
    kept.finish().await?;
    let check = Command::engine(site.installation.bindir.join(redis.checker)).arg(place).deadline(LIMIT);
    match site.host.run(check).await {
        // It says what it thinks on the one output or the other.
        Err(HostError::Failed { stderr, .. }) => return Err(invalid(last_line(&stderr))),
        checked => checked.map(|_| ())?,
    }
    let contents = format!("file {BASE} seq 1 type b\n").into_bytes();
    let at = unfinished(&format!("{LOG}/{LIST}"));
    site.host.write(File { at, contents, mode: 0o600, owner: Owner::Engine }).await?;
    let contents = acl::without_agent(&String::from_utf8_lossy(&text)).into_bytes();
    let at = unfinished("users.acl");
    Ok(site.host.write(File { at, contents, mode: 0o600, owner: Owner::Engine }).await?)
}

fn last_line(said: &str) -> &str {
    let line = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    &line[..line.floor_char_boundary(500)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_says_what_it_is_and_how_long() {
        assert_eq!(parsed("trove-redis-1 5 18446744073709551615\n"), Some((5, u64::MAX)));
        for line in ["", "trove-redis-2 5 6\n", "trove-redis-1 5\n", "trove-redis-1 -5 6\n", "trove-redis-1 5 6 7\n"] {
            assert_eq!(parsed(line), None, "{line}");
        }
        assert_eq!(parsed("trove-redis-1 99999999999 6\n"), None, "more accounts than are read");
    }
}
