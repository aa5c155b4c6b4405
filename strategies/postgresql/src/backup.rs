//! Backups: what `pg_basebackup` says, a tar archive of the data directory with the log that makes it whole, and its
//! own list of sums.
//!
//! The log that is written meanwhile is kept by a slot for as long as a session of the agent's lasts, so that it goes
//! with the agent. Within bounds: a storage that is slow must not fill the tenant's disk (`max_slot_wal_keep_size`).

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use trove_strategy::{
    Backup, Command, Directory, EngineError, HostError, Kind, Location, Logs, Owner, PourError, Relay, Sink, Site,
    Source, Taken, pour,
};

use crate::Postgresql;
use crate::archive::Archive;
use crate::client::{ADMIN, Session, within};
use crate::engine::UNFINISHED;
use crate::{amcheck, catalog, config, replay};

/// A storage may be slow; a job's own deadline comes first.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How long a server is asked whether it is still there.
const PROBE: Duration = Duration::from_secs(5);

const TAKE: &str = "take a backup";
const RESTORE: &str = "restore a backup";

/// Files with which a restored server would not be the one that was backed up: lists that are only for a restore, an
/// earlier server's process, and what makes a server follow another one, run programs or reach for other directories
/// (manual, 26.3.5 and 55.4). A tenant with a shell may have put the last ones there.
const LEFT_OUT: &[&str] = &[
    "backup_manifest",
    "postmaster.pid",
    "postmaster.opts",
    "standby.signal",
    "recovery.signal",
    "tablespace_map",
    "pg_tblspc",
    replay::TAKEN,
    replay::SET_ASIDE,
];

#[async_trait]
impl Backup for Postgresql {
    async fn take(&self, site: &Site, sink: &mut Sink) -> Result<Taken, EngineError> {
        let mut home = catalog::home(site).await?;
        refuse_tablespaces(&home).await?;
        let begun = keep_log(&home).await?;
        let relay = relay(site)?;
        let mut said = site.host.read_from(basebackup(site, &relay)).await?;
        let copied = tokio::select! {
            copied = pour(&mut said, sink, |_| Ok(())) => copied,
            () = home.ended() => return Err(not_kept(site)),
        };
        if let Err(PourError::Read(error)) = copied {
            let lives = within(PROBE, TAKE, home.rows(TAKE, "select 1")).await.is_ok();
            let failed = relay.refusal().unwrap_or_else(|| of_tool(error));
            return Err(if lives {
                failed
            } else {
                EngineError::caused(Kind::Transient, not_kept(site).chain(), failed)
            });
        }
        if let Err(PourError::Write(error)) = copied {
            return Err(EngineError::caused(Kind::Transient, format!("{TAKE}: hand it on"), error));
        }
        let said = said.finish().await?.stderr;
        let mut taken = Taken::default();
        taken.position = Some(end_point(&said).map_or(begun, str::to_owned));
        Ok(taken)
    }

    async fn restore(&self, site: &Site, source: &mut Source) -> Result<(), EngineError> {
        let new = Directory::Data.join(UNFINISHED);
        site.host.remove(&new).await?;
        site.host.make_directory(&new, 0o700, Owner::Engine).await?;
        let made = async {
            extract(site, &new, source).await?;
            verify(site, &new).await?;
            make_ready(site, &new).await
        };
        if let Err(error) = made.await {
            // What is in the way is removed by the next call, too.
            let _ = site.host.remove(&new).await;
            return Err(error);
        }
        Ok(site.host.rename(&new, &Directory::Data.join("data")).await?)
    }

    fn logs(&self) -> Option<&dyn Logs> {
        Some(self)
    }

    async fn check(&self, site: &Site) -> Result<(), EngineError> {
        amcheck::check(site, &relay(site)?).await
    }
}

/// The tool has the agent's rights, and the engine's socket lies where a tenant with a shell can put another one, or a link to
/// somebody else's: so it is led to what the agent has verified.
fn relay(site: &Site) -> Result<Relay, EngineError> {
    let (host, file) = (site.host.clone(), format!(".s.PGSQL.{}", site.port));
    let socket = Directory::Run.join(&file);
    let reach = move || {
        let (host, socket) = (host.clone(), socket.clone());
        async move { Ok(host.connect(&socket).await?) }
    };
    Relay::for_programs(&file, reach).map_err(|error| EngineError::caused(Kind::Transient, TAKE, error))
}

/// The tool of the server's version. It comes in as the agent does: by the account that the system vouches for.
///
/// It keeps its list of sums in memory until the end, to put it into the archive: in all it took 10 MiB with 1,000 files and 21 MiB
/// with 100,000 (measured on 15; later ones do the same). The agent and its tools have 256 MiB, which is enough for a million files.
fn basebackup(site: &Site, relay: &Relay) -> Command {
    let tool = Command::engine(site.installation.bindir.join("pg_basebackup"))
        .arg("--pgdata=-")
        .arg("--format=tar")
        .arg("--wal-method=fetch")
        .arg("--checkpoint=fast")
        .arg("--label=trove")
        .arg("--verbose")
        .deadline(LIMIT);
    connected(tool, site, relay)
}

/// A client program of the server's that logs in as the agent, over the socket that the agent has verified.
pub(crate) fn connected(tool: Command, site: &Site, relay: &Relay) -> Command {
    let mut tool = tool
        .arg("--no-password")
        .arg(format!("--username={ADMIN}"))
        .arg(format!("--host={}", relay.directory()))
        .arg(format!("--port={}", site.port));
    tool.user = Owner::Agent;
    // Whoever asks for a password is told none.
    let env = [("PGPASSFILE", "/nonexistent"), ("PGREQUIREAUTH", "none"), ("PGGSSENCMODE", "disable")];
    let env = env.into_iter().chain([("PGSSLMODE", "disable"), ("PGCONNECT_TIMEOUT", "30")]);
    tool.env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    tool
}

/// A tablespace is another directory, anywhere on the machine.
async fn refuse_tablespaces(home: &Session) -> Result<(), EngineError> {
    let sql =
        "select string_agg(quote_ident(spcname), ', ') from pg_catalog.pg_tablespace where oid not in (1663, 1664)";
    let names = home.rows("look for tablespaces", sql).await?.concat().concat();
    if names.is_empty() {
        return Ok(());
    }
    let reason = format!(
        "{TAKE}: the server has tablespaces of its own ({}), and a backup holds the data directory alone: move what is \
         in them to pg_default and drop them",
        crate::client::cut(&names)
    );
    Err(EngineError::new(Kind::Invalid, reason))
}

/// Makes the slot that keeps the log from now on, and answers how far that has come. It lasts as long as the session.
async fn keep_log(home: &Session) -> Result<String, EngineError> {
    let attempt = "keep the log for a backup";
    let name = format!("trove_backup_{:016x}", rand::random::<u64>());
    let sql = format!("select lsn from pg_catalog.pg_create_physical_replication_slot('{name}', true, true)");
    home.rows(attempt, &sql).await?;
    Ok(home.rows(attempt, "select pg_catalog.pg_current_wal_lsn()").await?.concat().concat())
}

fn not_kept(site: &Site) -> EngineError {
    let reason = format!(
        "{TAKE}: the server ended the session that kept its log for it. Either more than {} MiB were written before \
         the storage had taken the backup, or the server was stopped",
        config::kept_log_mib(site)
    );
    EngineError::new(Kind::Transient, reason)
}

fn of_tool(error: io::Error) -> EngineError {
    match error.downcast::<HostError>() {
        Ok(failed) => EngineError::caused(Kind::Fatal, TAKE, failed),
        Err(error) => EngineError::caused(Kind::Transient, TAKE, error),
    }
}

/// From `pg_basebackup: write-ahead log end point: 0/2000100`.
fn end_point(said: &str) -> Option<&str> {
    said.lines().find_map(|line| Some(line.split_once("log end point: ")?.1.trim()))
}

fn invalid(reason: &str) -> EngineError {
    EngineError::new(Kind::Invalid, format!("{RESTORE}: {reason}"))
}

/// Unpacks as the engine's account what is a server's archive and nothing else.
async fn extract(site: &Site, new: &Location, source: &mut Source) -> Result<(), EngineError> {
    let unpack = Command::engine("/bin/tar")
        .arg("--extract")
        .arg("--file=-")
        .arg("--no-same-owner")
        .arg("--no-same-permissions")
        .arg("--no-overwrite-dir")
        .arg(format!("--directory={}", site.path(new).to_string_lossy()))
        .deadline(LIMIT);
    let mut files = site.host.write_to(unpack).await?;
    let mut archive = Archive::new();
    pour(source, &mut files, |bytes| archive.look(bytes)).await.map_err(|broken| match broken {
        PourError::Read(error) => EngineError::caused(Kind::Transient, format!("{RESTORE}: read it"), error),
        PourError::Write(error) => EngineError::caused(Kind::Fatal, format!("{RESTORE}: unpack it"), error),
        PourError::Refused(reason) => invalid(&reason),
    })?;
    archive.end().map_err(|reason| invalid(&reason))?;
    files.finish().await?;
    Ok(())
}

/// Compares every file with the sum that the server gave of it, and looks whether the log is whole.
async fn verify(site: &Site, new: &Location) -> Result<(), EngineError> {
    let of = Location { directory: new.directory, path: new.path.join("PG_VERSION") };
    let version = site.host.read(&of, 64).await?.unwrap_or_default();
    let version = String::from_utf8_lossy(&version).trim().to_owned();
    if version != site.installation.major {
        let reason = format!("it is of version {version:?}, and {} is installed", site.installation.major);
        return Err(invalid(&reason));
    }
    let verify = Command::engine(site.installation.bindir.join("pg_verifybackup"))
        .arg("--quiet")
        .arg(site.path(new).to_string_lossy())
        .deadline(LIMIT);
    match site.host.run(verify).await {
        Err(HostError::Failed { stderr, .. }) => Err(invalid(crate::client::cut(&stderr))),
        verified => Ok(verified.map(|_| ())?),
    }
}

/// Leaves out what the restored server must not have, and has the rest on the disk before it gets its name.
async fn make_ready(site: &Site, new: &Location) -> Result<(), EngineError> {
    let at = |name: &str| Location { directory: new.directory, path: new.path.join(name) };
    for name in LEFT_OUT {
        site.host.remove(&at(name)).await?;
    }
    site.host.make_directory(&at("pg_tblspc"), 0o700, Owner::Engine).await?;
    let flush = Command::engine(site.installation.bindir.join("initdb"))
        .arg("--sync-only")
        .arg("--pgdata")
        .arg(site.path(new).to_string_lossy())
        .deadline(LIMIT);
    site.host.run(flush).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use trove_conformance::Bench;

    use super::*;

    #[tokio::test]
    #[allow(clippy::disallowed_methods, reason = "a tenant with a shell does this in a directory of his account")]
    async fn the_tool_does_not_follow_a_link_to_another_server() {
        let strategy = Postgresql::new();
        let (own, other) = (Bench::new(&strategy).await.unwrap(), Bench::new(&strategy).await.unwrap());
        let (running, others) = (own.start().await.unwrap(), other.start().await.unwrap());
        let socket = |site: &Site| site.run.join(format!(".s.PGSQL.{}", site.port));
        let whole = async |relay: &Relay| {
            let mut said = own.site.host.read_from(basebackup(&own.site, relay)).await.unwrap();
            tokio::io::copy(&mut said, &mut tokio::io::sink()).await
        };
        let led = relay(&own.site).unwrap();
        assert!(whole(&led).await.unwrap() > 1 << 20, "{:?}", led.refusal());
        let moved = own.site.run.join("moved");
        std::fs::rename(socket(&own.site), &moved).unwrap();
        std::os::unix::fs::symlink(socket(&other.site), socket(&own.site)).unwrap();
        let led = relay(&own.site).unwrap();
        assert!(whole(&led).await.is_err());
        let said = led.refusal().map(|error| error.chain()).unwrap_or_default();
        assert!(said.contains("connect to .s.PGSQL"), "{said}");
        std::fs::rename(&moved, socket(&own.site)).unwrap();
        running.stop(&own).await.unwrap();
        others.stop(&other).await.unwrap();
    }

    #[test]
    fn the_end_of_the_log_is_what_the_tool_says() {
        let said = "pg_basebackup: write-ahead log start point: 0/2000028 on timeline 1\n\
                    pg_basebackup: write-ahead log end point: 0/2000100\npg_basebackup: syncing\n";
        assert_eq!(end_point(said), Some("0/2000100"));
        assert_eq!(end_point("pg_basebackup: base backup completed"), None);
    }
}
