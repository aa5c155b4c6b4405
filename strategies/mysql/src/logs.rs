//! The log of writes, in pieces: MariaDB's own log of changes, of which each file that is closed is shipped whole, in parts where it is
//! longer than a piece. The server keeps its files until they are stored, or have more than their part of the volume
//! ([`crate::config::log_bytes`]). A change is never in two files.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use trove_strategy::{
    Directory, EngineError, File, Kind, Location, LogPiece, Logs, Owner, PIECE_LIMIT, Settings, Site,
};

use crate::binlog::{self, Contents, Place, Walk};
use crate::client::{Session, within};
use crate::{Mysql, replay};

/// To flush what was written may take a while.
const LIMIT: Duration = Duration::from_secs(30);
/// As much is read at once of a file that is only looked at, bytes.
const LOOK: usize = 1 << 20;
/// The server does not know the file, or somebody reads it.
const NOT_PURGED: [u16; 2] = [1373, 1378];
const CLOSE: &str = "flush no_write_to_binlog binary logs";
const KEEP: &str = "keep the log";

/// How far a file was walked through.
#[derive(Debug)]
pub(crate) struct Walked {
    of: Place,
    to: u64,
    walk: Walk,
}

/// Says where what is kept begins. Nobody but the agent writes there.
fn kept() -> Location {
    Directory::Secrets.join("log-kept")
}

/// Where a file of the log lies.
fn at(number: u64) -> Location {
    Directory::Data.join(format!("data/{}", binlog::name(number)))
}

#[async_trait]
impl Logs for Mysql {
    async fn keep(&self, site: &Site) -> Result<String, EngineError> {
        let keep = async {
            let files = self.files(site, KEEP).await?;
            if let Some(place) = read_kept(site).await?
                && files.contains(&place.number)
                && beginning(site, place.number).await?.is_ok_and(|contents| contents.mark == place.mark)
            {
                return Ok(place.to_string());
            }
            // Of what was written before, nothing is wanted: it belongs to backups that were begun before.
            self.session(site).await?.run(KEEP, CLOSE).await?;
            let none = || EngineError::new(Kind::Fatal, format!("{KEEP}: the server writes none"));
            let open = self.files(site, KEEP).await?.last().copied().ok_or_else(none)?;
            let begun = |why| EngineError::new(Kind::Fatal, format!("{KEEP}: {}: {why}", binlog::name(open)));
            let contents = beginning(site, open).await?.map_err(begun)?;
            let place = Place { number: open, mark: contents.mark, offset: 0 };
            write_kept(site, place).await?;
            Ok(place.to_string())
        };
        within(LIMIT, KEEP, keep).await
    }

    async fn open_bytes(&self, site: &Site) -> Result<u64, EngineError> {
        let attempt = "look how much of the log is open";
        within(LIMIT, attempt, open_bytes(site, &mut self.session(site).await?, attempt)).await
    }

    async fn close(&self, site: &Site) -> Result<(), EngineError> {
        let attempt = "close a file of the log";
        let close = async {
            let mut session = self.session(site).await?;
            if open_bytes(site, &mut session, attempt).await? > 0 {
                session.run(attempt, CLOSE).await?;
            }
            Ok(())
        };
        within(LIMIT, attempt, close).await
    }

    async fn piece(&self, site: &Site, from: &str) -> Result<Option<LogPiece>, EngineError> {
        let attempt = format!("read the log from {from:?}");
        let place = parsed(&attempt, from)?;
        let gone = |why: &str| EngineError::new(Kind::Gone, format!("{attempt}: {why}"));
        let files = within(LIMIT, &attempt, self.files(site, &attempt)).await?;
        let Some(known) = files.iter().position(|number| *number == place.number) else {
            return Err(gone(
                "the server does not keep it: it was stored, there was no room for it, or somebody purged it",
            ));
        };
        let Some(next) = files.get(known + 1).copied() else {
            // Somebody may have begun another log meanwhile.
            return match beginning(site, place.number).await? {
                Ok(contents) if contents.mark == place.mark => Ok(None),
                _ => Err(gone("the server writes another file of this name")),
            };
        };
        match self.cut(site, place, next).await? {
            Ok(piece) => Ok(Some(piece)),
            Err(why) => {
                // No log goes on from here.
                self.forget(site).await?;
                Err(gone(&format!("somebody has changed or removed its file: {why}")))
            }
        }
    }

    async fn stored(&self, site: &Site, until: &str) -> Result<(), EngineError> {
        let attempt = "let go of what is stored of the log";
        let until = parsed(attempt, until)?;
        let stored = async {
            let Some(before) = read_kept(site).await? else { return Ok(()) };
            if (until.number, until.offset) > (before.number, before.offset) {
                write_kept(site, until).await?;
            }
            let files = self.files(site, attempt).await?;
            if files.first().is_none_or(|first| *first >= until.number)
                || !beginning(site, until.number).await?.is_ok_and(|contents| contents.mark == until.mark)
            {
                return Ok(());
            }
            let purge = format!("purge binary logs to '{}'", binlog::name(until.number));
            self.session(site).await?.run_unless(attempt, &purge, &NOT_PURGED).await
        };
        within(LIMIT, attempt, stored).await
    }

    async fn forget(&self, site: &Site) -> Result<(), EngineError> {
        Ok(site.host.remove(&kept()).await?)
    }

    async fn take(&self, site: &Site, piece: LogPiece) -> Result<(), EngineError> {
        replay::take(site, piece).await
    }

    async fn replay(&self, site: &Site, until: Option<SystemTime>) -> Result<(), EngineError> {
        // The server reads its files from where this site has them.
        trove_strategy::Engine::configure(self, site, &Settings::default()).await?;
        replay::replay(self, site, until).await
    }
}

impl Mysql {
    /// The files that the server knows, the one that it writes last.
    async fn files(&self, site: &Site, attempt: &str) -> Result<Vec<u64>, EngineError> {
        let rows = self.session(site).await?.rows(attempt, "show binary logs").await?;
        let files: Vec<u64> = rows.iter().filter_map(|row| binlog::number(row.first()?)).collect();
        // The server reads them from a list that whoever has its account can write: in a circle there would be no end of pieces.
        if !files.is_sorted_by(|one, other| one < other) {
            return Err(EngineError::new(
                Kind::Fatal,
                format!("{attempt}: the server's list of its files is not in order"),
            ));
        }
        Ok(files)
    }

    /// Whether what a crash leaves of data and log agrees: each has every change that was acknowledged, and no other.
    async fn is_durable(&self, site: &Site) -> Result<bool, EngineError> {
        let sql = "select @@global.sync_binlog = 1 and @@global.innodb_flush_log_at_trx_commit = 1";
        Ok(self.session(site).await?.value("look how changes are written", sql).await?.is_some_and(|both| both == "1"))
    }
}

pub(crate) fn parsed(attempt: &str, place: &str) -> Result<Place, EngineError> {
    let no_place = || EngineError::new(Kind::Invalid, format!("{attempt}: it is no place in a log of changes"));
    Place::parse(place).ok_or_else(no_place)
}

async fn read_kept(site: &Site) -> Result<Option<Place>, EngineError> {
    let text = site.host.read(&kept(), 256).await?;
    Ok(text.and_then(|text| Place::parse(&String::from_utf8_lossy(&text))))
}

async fn write_kept(site: &Site, place: Place) -> Result<(), EngineError> {
    let contents = place.to_string().into_bytes();
    Ok(site.host.write(File { at: kept(), contents, mode: 0o600, owner: Owner::Agent }).await?)
}

/// How a file begins: its mark, and whether there is a change in it; or why it is none of the log's.
async fn beginning(site: &Site, number: u64) -> Result<Result<Contents, &'static str>, EngineError> {
    let Some(read) = site.host.read_at(&at(number), 0, LOOK).await? else { return Ok(Err("it is not there")) };
    let mut walk = Walk::new(0, None);
    Ok(walk.read(&read.bytes).and_then(|()| walk.contents()))
}

/// What is in a file.
pub(crate) async fn contents(
    site: &Site,
    at: &Location,
    mut walk: Walk,
) -> Result<Result<Contents, &'static str>, EngineError> {
    let mut from = 0;
    loop {
        let Some(read) = site.host.read_at(at, from, LOOK).await? else { return Ok(Err("it is not there")) };
        if let Err(why) = walk.read(&read.bytes) {
            return Ok(Err(why));
        }
        from += read.bytes.len() as u64;
        if read.bytes.len() < LOOK {
            return Ok(walk.contents());
        }
    }
}

/// As much as was written into the open file, unless that is what the server writes by itself at the beginning of each.
async fn open_bytes(site: &Site, session: &mut Session<'_>, attempt: &str) -> Result<u64, EngineError> {
    let status = session.rows(attempt, "show master status").await?.into_iter().next().unwrap_or_default();
    let read = || Some((binlog::number(status.first()?)?, status.get(1)?.parse::<u64>().ok()?));
    let unread = || EngineError::new(Kind::Fatal, format!("{attempt}: the server writes no log of changes"));
    let (number, written) = read().ok_or_else(unread)?;
    if written > LOOK as u64 {
        return Ok(written);
    }
    // What cannot be read counts; whoever reads the piece says why.
    let is_idle = matches!(beginning(site, number).await, Ok(Ok(contents)) if !contents.has_changes());
    Ok(if is_idle { 0 } else { written })
}

impl Mysql {
    /// The piece of a closed file that begins here, or why there is none. With the last one of a file it is known whether its changes
    /// lead to those of the next file, so that none is missing between. A file that a crash has left says nowhere where it ends.
    async fn cut(&self, site: &Site, place: Place, next: u64) -> Result<Result<LogPiece, String>, EngineError> {
        let (own, following) = match (beginning(site, place.number).await?, beginning(site, next).await?) {
            (Ok(own), Ok(following)) if own.mark == place.mark => (own, following),
            (Ok(_), Ok(_)) => return Ok(Err("it is another one".to_owned())),
            (Err(why), _) => return Ok(Err(why.to_owned())),
            (_, Err(why)) => return Ok(Err(format!("{}, which comes next: {why}", binlog::name(next)))),
        };
        if own.is_in_use && !self.is_durable(site).await? {
            return Ok(Err("the server ended while it wrote it, and sync_binlog and innodb_flush_log_at_trx_commit are not both 1, \
                           so that data and log may differ"
                .to_owned()));
        }
        let Some(read) = site.host.read_at(&at(place.number), place.offset, PIECE_LIMIT).await? else {
            return Ok(Err("it is not there".to_owned()));
        };
        if read.size > site.size.volume_gib.max(1) << 30 {
            return Ok(Err("it is longer than the volume".to_owned()));
        }
        let mut bytes = read.bytes;
        let mut until = Place { offset: place.offset.saturating_add(bytes.len() as u64), ..place };
        let is_last = until.offset >= read.size;
        let to = if own.is_in_use { read.size } else { until.offset };
        let contents = match self.walk(site, place, to).await? {
            Ok(walk) if own.is_in_use || is_last => walk.contents(),
            Ok(_) => return Ok(Ok(LogPiece { from: place.to_string(), until: until.to_string(), bytes })),
            Err(why) => Err(why),
        };
        let end = match contents.map(|contents| contents.leads_to(&following.first)) {
            Ok(Some(end)) if end >= place.offset => end,
            Ok(_) => return Ok(Err("its changes are not those that lead to the next one".to_owned())),
            Err(why) => return Ok(Err(why.to_owned())),
        };
        if until.offset >= end {
            bytes.truncate(usize::try_from(end - place.offset).unwrap_or(usize::MAX));
            until = Place { number: next, mark: following.mark, offset: 0 };
        }
        Ok(Ok(LogPiece { from: place.to_string(), until: until.to_string(), bytes }))
    }

    /// Walks through a file up to here. It goes on from where it was, since a file may have many pieces, and take longer than a call may.
    async fn walk(&self, site: &Site, place: Place, to: u64) -> Result<Result<Walk, &'static str>, EngineError> {
        let mut kept = self.walked.lock().await;
        let of = Place { offset: 0, ..place };
        let walked = match &mut *kept {
            Some(walked) if walked.of == of && walked.to <= to => walked,
            other => other.insert(Walked { of, to: 0, walk: Walk::new(0, None) }),
        };
        while walked.to < to && !walked.walk.is_over() {
            let limit = usize::try_from(to - walked.to).map_or(LOOK, |left| left.min(LOOK));
            let read = site.host.read_at(&at(place.number), walked.to, limit).await?;
            let Some(read) = read.filter(|read| !read.bytes.is_empty()) else { return Ok(Err("it is not there")) };
            if let Err(why) = walked.walk.read(&read.bytes) {
                *kept = None;
                return Ok(Err(why));
            }
            walked.to += read.bytes.len() as u64;
        }
        Ok(Ok(walked.walk.clone()))
    }
}
