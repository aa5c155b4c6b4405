//! Replays segments of the log on a data directory: by a server of one session, which makes of it a server with a history of its own
//! (manual, 26.3 and 20.5.6).

use std::time::{Duration, SystemTime};

use trove_strategy::{Directory, EngineError, File, HostError, Kind, Location, Owner, Site};

use crate::client::{HOME, cut};
use crate::config;
use crate::logs::place;
use crate::segment::{self, Segment};
use crate::single_user::{control, field, postgres};

/// A long log takes long; a job's own deadline comes first.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Tells the server to replay, and is removed by it once it has.
const SIGNAL: &str = "recovery.signal";
/// What ALTER SYSTEM has set, and what it is called meanwhile.
const ALTERED: &str = "postgresql.auto.conf";
pub(crate) const SET_ASIDE: &str = "postgresql.auto.conf.replaying";
/// Says which segments were taken.
pub(crate) const TAKEN: &str = "trove_log_taken";
const REPLAY: &str = "replay the log";
const NOT_ENDED: &str = "the backup had not ended at that time";

fn at(name: &str) -> Location {
    Directory::Data.join(format!("data/{name}"))
}

fn invalid(reason: &str) -> EngineError {
    EngineError::new(Kind::Invalid, format!("{REPLAY}: {reason}"))
}

/// The segments that were taken, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken(Option<(Segment, Segment)>);

impl Taken {
    pub(crate) async fn read(site: &Site) -> Result<Self, EngineError> {
        let Some(text) = site.host.read(&at(TAKEN), 256).await? else { return Ok(Self(None)) };
        let text = String::from_utf8_lossy(&text);
        let pair = text.split_once(' ').and_then(|(next, begun)| Some((Segment::parse(next)?, Segment::parse(begun)?)));
        pair.map(|pair| Self(Some(pair))).ok_or_else(|| invalid("what was taken is not understood"))
    }

    pub(crate) async fn write(self, site: &Site) -> Result<(), EngineError> {
        let Self(Some((next, begun))) = self else { return Ok(()) };
        let contents = format!("{} {}", next.name(), begun.name()).into_bytes();
        Ok(site.host.write(File { at: at(TAKEN), contents, mode: 0o600, owner: Owner::Engine }).await?)
    }

    /// With one more. The record that comes last, and ends in a segment that was not taken, has begun in it, unless one that began
    /// before runs through all of it.
    pub(crate) fn with(self, segment: Segment, is_run_through: bool) -> Result<Self, String> {
        match self.0 {
            Some((next, _)) if next == segment.next() => Ok(self),
            Some((next, _)) if next != segment => Err(format!("{} is missing before it", next.name())),
            Some((_, begun)) if is_run_through => Ok(Self(Some((segment.next(), begun)))),
            _ => Ok(Self(Some((segment.next(), segment)))),
        }
    }
}

/// Replays what was taken, or what of it was committed at `until` and before.
pub(crate) async fn replay(site: &Site, until: Option<SystemTime>) -> Result<(), EngineError> {
    let target = until.map(|until| timestamp(until).ok_or_else(|| invalid("the server does not know such a time")));
    let target = target.transpose()?;
    let taken = Taken::read(site).await?;
    if let Some(until) = until {
        had_begun(site, until).await?;
    }
    let signal = File { at: at(SIGNAL), contents: Vec::new(), mode: 0o600, owner: Owner::Engine };
    site.host.write(signal).await?;
    // What a tenant has set there might end it elsewhere, or run programs of theirs.
    let is_altered = site.host.exists(&at(ALTERED)).await?;
    if is_altered {
        site.host.rename(&at(ALTERED), &at(SET_ASIDE)).await?;
    }
    let replayed = replayed(site, target.as_deref(), taken).await;
    if is_altered {
        site.host.rename(&at(SET_ASIDE), &at(ALTERED)).await?;
    }
    replayed?;
    Ok(site.host.remove(&at(TAKEN)).await?)
}

/// A server refuses a time at which the backup had not ended only where there is a commit between that time and its end. So the time is
/// compared with the one at which the backup's control file was last written, which was at its first checkpoint, or after it.
async fn had_begun(site: &Site, until: SystemTime) -> Result<(), EngineError> {
    let read = site.host.read_at(&at("global/pg_control"), 24, 8).await?;
    let written = read.and_then(|piece| Some(i64::from_le_bytes(piece.bytes.try_into().ok()?)));
    let unread = || EngineError::new(Kind::Fatal, format!("{REPLAY}: the server's control file is not understood"));
    let written = u64::try_from(written.ok_or_else(unread)?).map_err(|_| unread())?;
    let since = until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if since.as_secs() < written { Err(invalid(NOT_ENDED)) } else { Ok(()) }
}

async fn replayed(site: &Site, until: Option<&str>, taken: Taken) -> Result<(), EngineError> {
    if let Some(until) = until
        && run(site, until).await?
    {
        return Ok(());
    }
    // Nothing was committed after that time: all of it is wanted.
    if !run(site, "").await? {
        return Err(EngineError::new(Kind::Fatal, format!("{REPLAY}: the server wants more than there is")));
    }
    is_whole(site, taken).await
}

/// Since 1970, as a Julian day and the time of that day, in microseconds: the server counts no finer.
fn timestamp(time: SystemTime) -> Option<String> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // As many as the server knows, to the year 294276.
    let day = (days < 106_700_000).then_some(2_440_588 + days)?;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    Some(format!("J{day} {hour:02}:{minute:02}:{second:02}.{:06}+00", since.subsec_micros()))
}

/// Runs the server until it has replayed as much. `false`: the log ended before that time.
async fn run(site: &Site, until: &str) -> Result<bool, EngineError> {
    let mut single = postgres(site).arg("--single").arg("-D").arg(site.data.to_string_lossy());
    single.args.extend(config::owned(site));
    let time = format!("recovery_target_time={until}");
    for setting in [
        "listen_addresses=",
        "hot_standby=off",
        "archive_cleanup_command=",
        "recovery_end_command=",
        "recovery_min_apply_delay=0",
        "primary_conninfo=",
        "primary_slot_name=",
        // What the log ended with is looked at afterwards.
        "wal_keep_size=64MB",
        // Everything is in pg_wal, and a command has to be given.
        "restore_command=false",
        "recovery_target=",
        "recovery_target_lsn=",
        "recovery_target_name=",
        "recovery_target_xid=",
        "recovery_target_inclusive=on",
        "recovery_target_timeline=current",
        "recovery_target_action=promote",
        // An empty one unsets those before.
        &time,
        // What it says is read.
        "lc_messages=C",
    ] {
        single = single.arg("-c").arg(setting);
    }
    let said = match site.host.run(single.arg(HOME).deadline(LIMIT)).await {
        Ok(output) => output.stderr,
        Err(HostError::Failed { stderr, .. }) => stderr,
        Err(error) => return Err(error.into()),
    };
    // How it ended says less: afterwards it looks for a database, which a tenant may have dropped.
    let is_replayed = !site.host.exists(&at(SIGNAL)).await?;
    if is_replayed && field(&control(site).await?, "Database cluster state:") == Some("shut down") {
        return Ok(true);
    }
    let last = said.lines().filter_map(|line| line.split_once("FATAL:  ").or(line.split_once("PANIC:  "))).next_back();
    match last.map(|(_, said)| said) {
        Some("recovery ended before configured recovery target was reached") => Ok(false),
        Some("requested recovery stop point is before consistent recovery point") => Err(invalid(NOT_ENDED)),
        Some(said) if said.starts_with("WAL ends before") => {
            Err(invalid("the log breaks off before the backup's end: a segment is missing or damaged"))
        }
        Some(said) => Err(EngineError::new(Kind::Fatal, format!("{REPLAY}: {}", cut(said)))),
        None => Err(EngineError::new(Kind::Fatal, format!("{REPLAY}: the server ended without a reason"))),
    }
}

/// Looks whether it came to the end of what was taken: a server takes what is missing or damaged for the end.
async fn is_whole(site: &Site, taken: Taken) -> Result<(), EngineError> {
    let Taken(Some((next, begun))) = taken else { return Ok(()) };
    let unread = || EngineError::new(Kind::Fatal, format!("{REPLAY}: where the server ended is not understood"));
    let control = control(site).await?;
    let timeline = field(&control, "Latest checkpoint's TimeLineID:").and_then(|of| of.parse::<u32>().ok());
    let history = at(&format!("pg_wal/{:08X}.history", timeline.ok_or_else(unread)?));
    let history = site.host.read(&history, 1 << 20).await?.unwrap_or_default();
    let ended = branched_at(&String::from_utf8_lossy(&history)).ok_or_else(unread)?;
    if ended >= next.start() || ended >= begun.start() && is_cut_off(site, next, ended).await? {
        return Ok(());
    }
    let last = Segment::of(next.timeline, ended).name();
    let place = format!("{:X}/{:X}", ended >> 32, ended & 0xffff_ffff);
    Err(invalid(&format!("the log breaks off at {place}: the segment {last}, or the next one, is missing or damaged")))
}

/// From a file of lines of a number, a position and a reason: where its own history begins.
fn branched_at(history: &str) -> Option<u64> {
    let last = history.lines().rfind(|line| !line.trim().is_empty() && !line.starts_with('#'))?;
    segment::position(last.split_whitespace().nth(1)?)
}

/// Whether the record that begins there ends after what was taken.
async fn is_cut_off(site: &Site, next: Segment, ended: u64) -> Result<bool, EngineError> {
    let begins = segment::beginning(ended);
    let of = Segment::of(next.timeline, begins);
    let read = async |from: u64, bytes: usize| site.host.read_at(&place(of), from - of.start(), bytes).await;
    let length = read(begins, 4).await?.and_then(|piece| Some(u32::from_le_bytes(piece.bytes.try_into().ok()?)));
    let Some(length) = length.filter(|length| segment::goes_beyond(begins, *length, next.start())) else {
        return Ok(false);
    };
    // Its length may be what is damaged: the page that comes next says how much of it is left.
    let page = (begins / segment::PAGE + 1) * segment::PAGE;
    if page == of.next().start() {
        return Ok(true);
    }
    let rest = read(page, 24).await?.and_then(|piece| segment::rest(&piece.bytes));
    Ok(rest.is_some_and(|rest| u64::from(rest) + (page - begins) == u64::from(length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_julian_days_without_more_than_microseconds() {
        let at = |nanos: u64| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        assert_eq!(timestamp(at(1_999)).as_deref(), Some("J2440588 00:00:00.000001+00"));
        // 2001-09-09 01:46:40.5, day 2452162.
        assert_eq!(timestamp(at(1_000_000_000_500_000_000)).as_deref(), Some("J2452162 01:46:40.500000+00"));
        assert_eq!(timestamp(SystemTime::UNIX_EPOCH - Duration::from_nanos(1)), None);
        assert_eq!(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 50)), None);
    }

    #[test]
    fn segments_are_taken_one_after_the_other() {
        let first = Segment::of(1, 7 * segment::SIZE);
        let (second, third) = (first.next(), first.next().next());
        let taken = Taken::default().with(first, false).unwrap();
        assert_eq!(taken, Taken(Some((second, first))));
        assert_eq!(taken.with(first, false), Ok(taken), "again");
        assert_eq!(taken.with(third, false), Err(format!("{} is missing before it", second.name())));
        let taken = taken.with(second, true).unwrap();
        assert_eq!(taken, Taken(Some((third, first))));
        assert_eq!(taken.with(third, false), Ok(Taken(Some((third.next(), third)))));
        assert!(taken.with(first, false).is_err());
    }

    #[test]
    fn where_a_history_begins_is_its_last_line() {
        let history = "1\t0/3000148\tbefore 2000-01-01 00:00:00+00\n\n2\t1/0\tno recovery target specified\n";
        assert_eq!(branched_at(history), Some(1 << 32));
        assert_eq!((branched_at(""), branched_at("1\n")), (None, None));
    }
}
