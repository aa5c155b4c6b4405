//! Backups of MariaDB by its own tool: what `mariadb-backup` streams, in the order in which it does.
//!
//! Sources: MariaDB's manual (mariadb-backup, backup stages), tried on MariaDB 10.11.19 of Debian 12.

use std::time::Duration;

use async_trait::async_trait;
use trove_strategy::{
    Backup, Command, Directory, EngineError, HostError, Incremental, Kind, Location, Logs, Owner, PourError, Sink,
    Site, Source, Taken, pour,
};

use crate::client::socket;
use crate::install::{argument, bootstrap, program, restored, unfinished, with_modes};
use crate::xbstream::Chunks;
use crate::{Flavour, Mysql, check, config, names, replay};

/// The agent's job has a deadline of its own, which ends the tools earlier.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How long the statements on the restored data may take, with the recovery before them.
const RECOVERY: Duration = Duration::from_secs(900);
/// Greatest size of the tool's file about a backup.
const INFO_BYTES: u64 = 64 << 10;

/// What the tool writes beside the stream, which also is its directory for what it sorts.
fn beside() -> Location {
    let mut at = config::temporary();
    at.path.push("backup");
    at
}

/// The tool leaves these among the data; the server knows none of them.
const OWN_FILES: &[&str] = &[
    "backup-my.cnf",
    "mariadb_backup_checkpoints",
    "mariadb_backup_info",
    "xtrabackup_binlog_pos_innodb",
    "xtrabackup_checkpoints",
    "xtrabackup_info",
];

#[async_trait]
impl Backup for Mysql {
    async fn take(&self, site: &Site, sink: &mut Sink) -> Result<Taken, EngineError> {
        self.stream(site, None, sink).await
    }

    async fn restore(&self, site: &Site, source: &mut Source) -> Result<(), EngineError> {
        self.begin(site, source).await?;
        self.finish(site).await
    }

    fn incremental(&self) -> Option<&dyn Incremental> {
        Some(self)
    }

    fn logs(&self) -> Option<&dyn Logs> {
        Some(self)
    }

    async fn check(&self, site: &Site) -> Result<(), EngineError> {
        check::check(self, site).await
    }
}

impl Mysql {
    /// Streams everything, or what has changed since a checkpoint.
    async fn stream(&self, site: &Site, since: Option<u64>, sink: &mut Sink) -> Result<Taken, EngineError> {
        let tool = program(site, "mariadb-backup").await?;
        site.host.remove(&beside()).await?;
        site.host.make_directory(&beside(), 0o700, Owner::Engine).await?;
        let mut command = Command::engine(tool).deadline(LIMIT).arg("--no-defaults").arg("--backup");
        command = command.arg("--stream=xbstream").arg(format!("--user={}", names::admin(self.flavour, site)));
        for (name, at) in [("socket", &socket()), ("target-dir", &beside()), ("extra-lsndir", &beside())] {
            command = command.arg(argument(name, site, at));
        }
        command = command.arg(format!("--datadir={}", site.data.display()));
        if let Some(lsn) = since {
            command = command.arg(format!("--incremental-lsn={lsn}"));
        }
        let mut stream = site.host.read_from(with_modes(command)).await?;
        pour(&mut stream, sink, |_| Ok(())).await.map_err(|broken| match broken {
            PourError::Write(error) => EngineError::caused(Kind::Transient, "store the backup", error),
            PourError::Read(error) => EngineError::caused(Kind::Transient, "take a backup", error),
            PourError::Refused(reason) => EngineError::new(Kind::Fatal, format!("take a backup: {reason}")),
        })?;
        let mut taken = Taken::default();
        taken.position = said(site, &["mariadb_backup_info", "xtrabackup_info"], gtid).await?;
        taken.checkpoint = said(site, &["mariadb_backup_checkpoints", "xtrabackup_checkpoints"], checkpoint).await?;
        site.host.remove(&beside()).await?;
        Ok(taken)
    }
}

#[async_trait]
impl Incremental for Mysql {
    async fn take(&self, site: &Site, checkpoint: &str, sink: &mut Sink) -> Result<Taken, EngineError> {
        let wrong = |error| EngineError::caused(Kind::Invalid, format!("take an increment on {checkpoint:?}"), error);
        let lsn: u64 = checkpoint.parse().map_err(wrong)?;
        self.stream(site, Some(lsn), sink).await
    }

    async fn begin(&self, site: &Site, source: &mut Source) -> Result<(), EngineError> {
        for at in config::empty() {
            site.host.make_directory(&at, 0o750, Owner::Agent).await?;
        }
        site.host.make_directory(&config::temporary(), 0o700, Owner::Engine).await?;
        site.host.remove(&increment()).await?;
        site.host.remove(&replay::directory()).await?;
        unpack(site, source, &unfinished()).await?;
        prepare(site, None).await
    }

    async fn apply(&self, site: &Site, source: &mut Source) -> Result<(), EngineError> {
        let increment = increment();
        unpack(site, source, &increment).await?;
        prepare(site, Some(&increment)).await?;
        Ok(site.host.remove(&increment).await?)
    }

    async fn finish(&self, site: &Site) -> Result<(), EngineError> {
        let new = unfinished();
        for name in OWN_FILES {
            site.host.remove(&new_file(name)).await?;
        }
        // By whichever name its version has: from there on the log is replayed.
        for name in ["mariadb_backup_binlog_info", "xtrabackup_binlog_info"] {
            if site.host.exists(&new_file(name)).await? {
                site.host.rename(&new_file(name), &new_file(replay::BEGINS)).await?;
            }
        }
        if !site.host.exists(&new_file("mysql")).await? {
            return Err(EngineError::new(
                Kind::Invalid,
                "restore: the backup is of no server: it has no database mysql",
            ));
        }
        // The account may have another name here, and who was root there may have changed it.
        let statements = [restored(self.flavour, site)];
        let made = bootstrap(self.flavour, site, &new, &statements, RECOVERY).await;
        made.map_err(|error| invalid("make the agent's account", error))?;
        Ok(site.host.rename(&new, &Directory::Data.join("data")).await?)
    }
}

/// Where an increment is while it is applied.
fn increment() -> Location {
    Directory::Data.join("data.increment")
}

/// Unpacks a stream into a directory that is made for it.
async fn unpack(site: &Site, source: &mut Source, into: &Location) -> Result<(), EngineError> {
    let tool = program(site, "mbstream").await?;
    site.host.remove(into).await?;
    site.host.make_directory(into, 0o700, Owner::Engine).await?;
    let unpack = Command::engine(tool).deadline(LIMIT).arg("-x").arg("-C").arg(site.path(into).display().to_string());
    let mut stream = site.host.write_to(with_modes(unpack)).await?;
    let refused = |reason| EngineError::new(Kind::Invalid, format!("restore: unpack the backup: {reason}"));
    let mut chunks = Chunks::default();
    match pour(source, &mut stream, |bytes| chunks.look(bytes)).await {
        Ok(()) => chunks.end().map_err(refused)?,
        Err(PourError::Read(error)) => return Err(EngineError::caused(Kind::Transient, "read the backup", error)),
        // Its end says why.
        Err(PourError::Write(_)) => {}
        Err(PourError::Refused(reason)) => return Err(refused(reason)),
    }
    stream.finish().await.map(drop).map_err(|error| invalid("unpack the backup", error))
}

/// Brings what was unpacked to one state, or to that of the increment on it. The tool refuses an increment that does not begin
/// where the state ends.
async fn prepare(site: &Site, increment: Option<&Location>) -> Result<(), EngineError> {
    let tool = program(site, "mariadb-backup").await?;
    let prepare = Command::engine(tool).deadline(LIMIT).arg("--no-defaults").arg("--prepare");
    // The backup has a file of options of its own: a plug-in that it names is not found.
    let [plugins, _] = config::empty();
    let mut prepare = prepare.arg(argument("plugin-dir", site, &plugins));
    prepare =
        prepare.arg(argument("target-dir", site, &unfinished())).arg(argument("tmpdir", site, &config::temporary()));
    if let Some(increment) = increment {
        prepare = prepare.arg(argument("incremental-dir", site, increment));
    }
    site.host.run(with_modes(prepare)).await.map(drop).map_err(|error| invalid("prepare the backup", error))
}

fn new_file(name: &str) -> Location {
    let mut at = unfinished();
    at.path.push(name);
    at
}

/// What a program says of the data is of the backup. One that could not be run, or was late, says nothing of it.
pub(crate) fn invalid(attempt: &str, error: HostError) -> EngineError {
    let kind =
        if matches!(error, HostError::Failed { .. }) { Kind::Invalid } else { EngineError::from(error.clone()).kind() };
    EngineError::caused(kind, format!("restore: {attempt}"), error)
}

/// What the tool's file about the backup says, by whichever name its version has. The file is in a directory of the engine's
/// account, so that it is taken for what it says and no more.
async fn said(
    site: &Site,
    names: &[&str],
    parse: impl Fn(&str) -> Option<String>,
) -> Result<Option<String>, EngineError> {
    for name in names {
        let mut at = beside();
        at.path.push(name);
        if let Some(bytes) = site.host.read(&at, INFO_BYTES).await? {
            return Ok(parse(&String::from_utf8_lossy(&bytes)));
        }
    }
    Ok(None)
}

/// From a line such as `to_lsn = 47629`: an increment on this backup begins there.
fn checkpoint(checkpoints: &str) -> Option<String> {
    let line = checkpoints.lines().find(|line| line.starts_with("to_lsn"))?;
    let lsn: u64 = line.split_once('=')?.1.trim().parse().ok()?;
    Some(lsn.to_string())
}

/// From a line such as `binlog_pos = filename 'binlog.000002', position '342', GTID of the last change '0-1-3'`.
fn gtid(info: &str) -> Option<String> {
    let line = info.lines().find(|line| line.starts_with("binlog_pos"))?;
    let gtid = line.split_once("GTID of the last change '")?.1.split('\'').next()?;
    let is_gtid = !gtid.is_empty() && gtid.chars().all(|c| c.is_ascii_digit() || "-,".contains(c));
    is_gtid.then(|| gtid.to_owned())
}

impl Flavour {
    /// MySQL's way is another (its clone plug-in).
    pub(crate) fn has_backups(self) -> bool {
        self.is_mariadb()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_increment_begins_where_the_log_was_copied_to() {
        let file = "backup_type = full-backuped\nfrom_lsn = 0\nto_lsn = 47629\nlast_lsn = 47640\n";
        assert_eq!(checkpoint(file).as_deref(), Some("47629"));
        for wrong in ["", "to_lsn = \n", "to_lsn = 1 --x\n", "to_lsn = -1\n", "last_lsn = 1\n"] {
            assert_eq!(checkpoint(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_position_is_the_tools_last_gtid() {
        let info = "uuid = 1\nbinlog_pos = filename 'binlog.000002', position '342', GTID of the last change '0-1-3'\n";
        assert_eq!(gtid(info).as_deref(), Some("0-1-3"));
        assert_eq!(gtid("binlog_pos = filename 'binlog.000001', position '328'\n"), None);
        assert_eq!(gtid("binlog_pos = GTID of the last change '0-1-3\u{7}'\n"), None);
    }
}
