//! Replays files of the log on restored data: as the relay log of a server that nobody can reach, whose applier reads them as a
//! replica's does. What is in them is never made a text and read again.
//!
//! Source: MariaDB's manual (CHANGE MASTER TO, START SLAVE, relay log, SHOW REPLICA STATUS), tried on 10.11.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use trove_strategy::{
    Command, Directory, Engine as _, EngineError, File, Kind, Location, LogPiece, OutputStream, Owner, Settings, Site,
    StartMode,
};

use crate::backup::invalid as refused;
use crate::binlog::{Place, Position, Walk};
use crate::client::Session;
use crate::install::{argument, bootstrap, restored, with_modes};
use crate::logs::{contents, parsed};
use crate::{Mysql, binlog};

/// A long log takes long; a job's own deadline comes first.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How long a server may take to start on the restored data, and statements on them.
const START: Duration = Duration::from_secs(900);
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// So often the applier is seen waiting for more before it is believed: it says so for a moment where it goes on.
const WAITS: u32 = 50;
/// In the data directory: where the backup ended in the log, as the tool says it.
pub(crate) const BEGINS: &str = "log-begins";
/// Greatest size of that file: it has a number of each domain.
const BEGINS_BYTES: u64 = 1 << 20;
const REPLAY: &str = "replay the log";
const NOT_ENDED: &str = "the backup had not ended at that time";

/// Where the log is until it is replayed.
pub(crate) fn directory() -> Location {
    Directory::Data.join("replay")
}

fn within(name: &str) -> Location {
    let mut at = directory();
    at.path.push(name);
    at
}

/// A file of the log that was taken, the first one being 1.
fn name(file: u64) -> String {
    format!("relay.{file:06}")
}

fn begins() -> Location {
    Directory::Data.join(format!("data/{BEGINS}"))
}

fn invalid(reason: impl std::fmt::Display) -> EngineError {
    EngineError::new(Kind::Invalid, format!("{REPLAY}: {reason}"))
}

/// Where the backup ended.
#[derive(Debug, PartialEq, Eq)]
struct Start {
    number: u64,
    offset: u64,
    position: Position,
}

impl Start {
    async fn read(site: &Site) -> Result<Self, EngineError> {
        let text = site.host.read(&begins(), BEGINS_BYTES).await?.unwrap_or_default();
        let unread = || invalid("the backup does not say where in the log it ended");
        Self::parse(&String::from_utf8_lossy(&text)).ok_or_else(unread)
    }

    /// From a line of a file's name, an offset and numbers, such as `binlog.000002 379 0-5-5`.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (number, offset) = (binlog::number(words.next()?)?, words.next()?.parse().ok()?);
        Some(Self { number, offset, position: Position::parse(&words.collect::<String>())? })
    }
}

/// What was taken: so many whole files from the one on in which the backup ended, and where the next piece begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Taken {
    files: u64,
    next: Option<Place>,
}

impl Taken {
    fn at() -> Location {
        within("taken")
    }

    async fn read(site: &Site) -> Result<Self, EngineError> {
        let Some(text) = site.host.read(&Self::at(), 256).await? else { return Ok(Self::default()) };
        let text = String::from_utf8_lossy(&text);
        let read = || {
            let (files, next) = text.split_once(' ')?;
            Some(Self { files: files.parse().ok()?, next: Some(Place::parse(next)?) })
        };
        read().ok_or_else(|| invalid("what was taken is not understood"))
    }

    async fn write(self, site: &Site) -> Result<(), EngineError> {
        let Some(next) = self.next else { return Ok(()) };
        let contents = format!("{} {next}", self.files).into_bytes();
        Ok(site.host.write(File { at: Self::at(), contents, mode: 0o600, owner: Owner::Engine }).await?)
    }

    /// With one more piece, and whether it has to be there: what was written before the backup ended is in that.
    fn with(self, from: Place, until: Place, start: u64) -> Result<(Self, bool), String> {
        if let Some(next) = self.next.filter(|next| *next != from) {
            return Err(format!("{next} is missing before it"));
        }
        let is_wanted = from.number >= start;
        if is_wanted && self.files == 0 && (from.number > start || from.offset > 0 && self.next.is_none()) {
            return Err("the log begins after the backup has ended".to_owned());
        }
        let is_end = until.number != from.number;
        Ok((Self { files: self.files + u64::from(is_wanted && is_end), next: Some(until) }, is_wanted))
    }
}

/// Takes a piece: a part of a file.
pub(crate) async fn take(site: &Site, piece: LogPiece) -> Result<(), EngineError> {
    let attempt = format!("take the log from {:?}", piece.from);
    let invalid = |why: String| EngineError::new(Kind::Invalid, format!("{attempt}: {why}"));
    let (from, until) = (parsed(&attempt, &piece.from)?, parsed(&attempt, &piece.until)?);
    let rest = Place { offset: from.offset.saturating_add(piece.bytes.len() as u64), ..from };
    if until != rest && (until.number <= from.number || until.offset != 0) {
        return Err(invalid(format!("it does not end at {until}")));
    }
    let taken = Taken::read(site).await?;
    if taken.next == Some(until) {
        return Ok(());
    }
    let (with, is_wanted) = taken.with(from, until, Start::read(site).await?.number).map_err(invalid)?;
    site.host.make_directory(&directory(), 0o700, Owner::Engine).await?;
    if is_wanted {
        let to = site.path(&within(&name(taken.files + 1))).display().to_string();
        let write = Command::engine("/bin/dd").arg(format!("of={to}")).arg("bs=256K").arg("iflag=fullblock");
        let write = write.arg("oflag=seek_bytes").arg(format!("seek={}", from.offset)).arg("conv=notrunc");
        let mut file = site.host.write_to(with_modes(write.arg("status=none"))).await?;
        let written = file.write_all(&piece.bytes).await;
        written.map_err(|error| EngineError::caused(Kind::Fatal, attempt.clone(), error))?;
        file.finish().await?;
    }
    with.write(site).await
}

/// Replays what was taken, or what of it was begun before the second of `until`.
pub(crate) async fn replay(mysql: &Mysql, site: &Site, until: Option<SystemTime>) -> Result<(), EngineError> {
    // One beyond what the server counts is one to which it does not come.
    let seconds = |until: SystemTime| until.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let until = until.and_then(|until| u32::try_from(seconds(until)).ok());
    let taken = Taken::read(site).await?;
    if taken.files > 0 {
        let start = Start::read(site).await?;
        let end = end(site, &start, taken.files, until).await?;
        run(mysql, site, taken.files, (1, start.offset), end).await?;
        let statements = [
            // This server follows no other, and counts its own changes.
            "delete from mysql.gtid_slave_pos;".to_owned(),
            // Changes of the log may have been of the agent's account.
            restored(mysql.flavour, site),
        ];
        let made = bootstrap(mysql.flavour, site, &Directory::Data.join("data"), &statements, START).await;
        made.map_err(|error| refused("make the agent's account", error))?;
    }
    site.host.remove(&directory()).await?;
    Ok(site.host.remove(&begins()).await?)
}

/// Up to where is replayed: a file, and an offset in it. All before that is looked at, whether a change is missing.
async fn end(site: &Site, start: &Start, files: u64, until: Option<u32>) -> Result<(u64, u64), EngineError> {
    let mut end = (1, start.offset);
    let mut before = None;
    for file in 1..=files {
        let walk = Walk::new(if file == 1 { start.offset } else { 0 }, until);
        let read = contents(site, &within(&name(file)), walk).await?;
        let contents = read.map_err(|why| invalid(format!("file {file} of it: {why}")))?;
        if file == 1 && (contents.was_late || until.is_some_and(|until| contents.begun > until)) {
            return Err(invalid(NOT_ENDED));
        }
        if file == 1 && (contents.end < start.offset || contents.passed != start.position) {
            return Err(invalid("it is of another server than the backup, or of another time"));
        }
        if !contents.is_whole || before.is_some_and(|before| before != contents.first) {
            return Err(invalid(format!("a change is missing in file {file} of it, or before that")));
        }
        end = (file, contents.late.unwrap_or(contents.end));
        if contents.late.is_some() {
            break;
        }
        before = Some(contents.last);
    }
    Ok(end)
}

/// Runs a server until it has replayed as much.
async fn run(mysql: &Mysql, site: &Site, files: u64, from: (u64, u64), until: (u64, u64)) -> Result<(), EngineError> {
    let index = within("relay.index");
    let lines = (1..=files).map(|file| format!("{}\n", site.path(&within(&name(file))).display())).collect::<String>();
    let file = File { at: index.clone(), contents: lines.into_bytes(), mode: 0o600, owner: Owner::Engine };
    site.host.write(file).await?;
    let spec = mysql.start_spec(site, &Settings::default(), StartMode::Private);
    let mut server = Command::engine(spec.program).deadline(LIMIT);
    (server.args, server.env) = (spec.args, spec.env);
    for arg in [
        // It has no log of its own, follows nobody, and begins anew where it does not come to its end.
        "--skip-log-bin",
        "--skip-log-slave-updates",
        "--skip-slave-start",
        "--replicate-same-server-id",
        "--innodb-flush-log-at-trx-commit=0",
        // What sessions of the source were free to do.
        "--innodb-strict-mode=OFF",
        "--max-heap-table-size=4294967295",
        "--replicate-events-marked-for-skip=REPLICATE",
    ] {
        server = server.arg(arg);
    }
    for (option, at) in [
        ("relay-log", within("relay")),
        ("relay-log-index", index),
        ("relay-log-info-file", within("relay.info")),
        ("master-info-file", within("master.info")),
    ] {
        server = server.arg(argument(option, site, &at));
    }
    let mut output = site.host.read_from(server).await?;
    let ended = ended(&mut output);
    tokio::pin!(ended);
    tokio::select! {
        biased;
        early = &mut ended => {
            early?;
            return Err(EngineError::new(Kind::Fatal, format!("{REPLAY}: the server ended by itself")));
        }
        applied = apply(mysql, site, from, until) => applied?,
    }
    ended.await
}

/// The end of the server, with what it said.
async fn ended(output: &mut OutputStream) -> Result<(), EngineError> {
    let mut heard = [0; 4096];
    loop {
        match output.read(&mut heard).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(EngineError::caused(Kind::Fatal, REPLAY, error)),
        }
    }
}

/// Has the server apply the log, and end. All by one session: what is applied may be changes of the account that it is of.
async fn apply(mysql: &Mysql, site: &Site, from: (u64, u64), until: (u64, u64)) -> Result<(), EngineError> {
    let started = tokio::time::Instant::now();
    let mut session = loop {
        match Session::alone(mysql.flavour, site).await {
            Err(error) if error.kind() == Kind::Transient && started.elapsed() < START => {}
            answered => break answered?,
        }
        tokio::time::sleep(ASK_AGAIN).await;
    };
    // There is no such server, and nobody asks it for anything.
    let begin = format!(
        "change master to master_host = 'none', master_user = 'none', master_use_gtid = no, relay_log_file = '{}', \
         relay_log_pos = {}",
        name(from.0),
        from.1
    );
    session.run(REPLAY, &begin).await?;
    let apply =
        format!("start slave sql_thread until relay_log_file = '{}', relay_log_pos = {}", name(until.0), until.1);
    session.run(REPLAY, &apply).await?;
    let mut waits = 0;
    loop {
        let applier = Applier(session.first(REPLAY, "show slave status").await?);
        if !applier.is_running() {
            applier.has_come_to(until)?;
            return session.run(REPLAY, "shutdown").await;
        }
        waits = if applier.waits() { waits + 1 } else { 0 };
        if waits > WAITS {
            return Err(invalid("its last change has no end"));
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// What the server says of its applier.
struct Applier(BTreeMap<String, String>);

impl Applier {
    fn said(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn is_running(&self) -> bool {
        self.said("Slave_SQL_Running") == "Yes"
    }

    /// Whether there is nothing more to read.
    fn waits(&self) -> bool {
        self.said("Slave_SQL_Running_State").starts_with("Slave has read all relay log")
    }

    /// An error's text may hold a statement: its number alone is told.
    fn has_come_to(&self, until: (u64, u64)) -> Result<(), EngineError> {
        let (file, offset) = (self.said("Relay_Log_File"), self.said("Relay_Log_Pos"));
        let number = file.strip_prefix("relay.").and_then(|number| number.parse::<u64>().ok());
        let reached = number.zip(offset.parse::<u64>().ok());
        let error = self.said("Last_SQL_Errno");
        if error != "0" {
            return Err(invalid(format!("the server does not go on at {offset} in {file}: error {error}")));
        }
        if reached.is_none_or(|reached| reached < until) {
            return Err(invalid(format!("the server was stopped at {offset} in {file}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_backup_ended_is_what_the_tool_says() {
        let start = Start::parse("binlog.000002\t379\t0-5-5,1-5-3\n").unwrap();
        assert_eq!((start.number, start.offset), (2, 379));
        assert_eq!(start.position, Position::parse("1-5-3,0-5-5").unwrap());
        assert_eq!(Start::parse("binlog.000001 325").unwrap().position, Position::default());
        for wrong in ["", "binlog.000002", "binlog.000002 x", "other.000002 379", "binlog.000002 379 0-5"] {
            assert_eq!(Start::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn pieces_are_taken_one_after_the_other_from_the_backups_file_on() {
        let place = |number, offset| Place { number, mark: number, offset };
        let take = |taken: Taken, from, until| taken.with(from, until, 3);
        let none = Taken::default();
        assert!(take(none, place(4, 0), place(5, 0)).is_err(), "it begins too late");
        assert!(take(none, place(3, 9), place(4, 0)).is_err(), "a beginning is missing");
        let (before, is_wanted) = take(none, place(2, 9), place(3, 0)).unwrap();
        assert_eq!((before.files, before.next, is_wanted), (0, Some(place(3, 0)), false));
        let (part, is_wanted) = take(before, place(3, 0), place(3, 9)).unwrap();
        assert_eq!((part.files, is_wanted), (0, true));
        assert!(take(part, place(4, 0), place(5, 0)).is_err(), "a part is missing");
        let (whole, is_wanted) = take(part, place(3, 9), place(5, 0)).unwrap();
        assert_eq!((whole.files, whole.next, is_wanted), (1, Some(place(5, 0)), true));
        assert_eq!(take(whole, place(5, 0), place(6, 0)).unwrap().0.files, 2);
        let other = Place { mark: 7, ..place(5, 0) };
        assert!(take(whole, other, place(6, 0)).is_err(), "it is another log");
    }
}
