//! The log of writes, in pieces: the server's own segments, which a slot of the agent's keeps in `pg_wal` until they are stored.
//!
//! A place is the name of a segment's file. Replayed by a server of one session, which nobody can reach and which ends by itself.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use trove_strategy::{
    Directory, Engine as _, EngineError, File, Kind, Location, LogPiece, Logs, Owner, Piece, Settings, Site,
};

use crate::Postgresql;
use crate::client::{HOME, Session, cut, within};
use crate::replay;
use crate::segment::{self, Segment};

/// The slot. Tenants' are named otherwise, or are taken for it.
const SLOT: &str = "trove_log";
/// To flush what was written may take a while.
const LIMIT: Duration = Duration::from_secs(30);
const SIZE: usize = 16 << 20;

/// What is known of the server's log at a moment.
struct State {
    timeline: u32,
    inserted: u64,
    flushed: u64,
    slot: Slot,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    None,
    /// It keeps nothing: it fell too far behind, or somebody has put another one in its place.
    Lost,
    From(u64),
}

impl State {
    /// The segment that is being written.
    fn open(&self) -> Segment {
        Segment::of(self.timeline, self.inserted)
    }

    /// The first segment that is kept.
    fn kept(&self) -> Option<Segment> {
        match self.slot {
            Slot::From(lsn) => Some(Segment::of(self.timeline, lsn)),
            _ => None,
        }
    }

    /// Why a segment is not kept.
    fn gone(&self, segment: Segment) -> Option<&'static str> {
        match self.slot {
            _ if segment.timeline != self.timeline => Some("the server has begun another timeline since"),
            _ if segment.start() > self.inserted => {
                Some("the server has not come so far: it is an older state of itself")
            }
            Slot::None => Some("somebody has dropped the slot that kept it"),
            Slot::Lost => Some("more was written than the server keeps for a storage that is behind"),
            Slot::From(lsn) if lsn >= segment.next().start() => Some("it was stored, or let go by somebody"),
            Slot::From(_) => None,
        }
    }
}

#[async_trait]
impl Logs for Postgresql {
    async fn keep(&self, site: &Site) -> Result<String, EngineError> {
        let keep = async {
            let home = Session::open(site, HOME).await?;
            let state = ask(&home, KEEP).await?;
            if let Some(segment) = state.kept() {
                return Ok(segment.name());
            }
            if state.slot == Slot::Lost {
                drop_slot(&home, KEEP).await?;
            }
            let make = format!("select from pg_catalog.pg_create_physical_replication_slot('{SLOT}', true, false)");
            home.rows(KEEP, &make).await?;
            // It begins at the last checkpoint, of which the log may be gone or not whole: from now on it is.
            let state = ask(&home, KEEP).await?;
            advance(&home, KEEP, &state, state.open()).await?;
            let none = || EngineError::new(Kind::Transient, format!("{KEEP}: the slot that was made is gone"));
            Ok(ask(&home, KEEP).await?.kept().ok_or_else(none)?.name())
        };
        within(LIMIT, KEEP, keep).await
    }

    async fn open_bytes(&self, site: &Site) -> Result<u64, EngineError> {
        let attempt = "look how much of the log is open";
        let open = async { open_bytes(site, &ask(&Session::open(site, HOME).await?, attempt).await?).await };
        within(LIMIT, attempt, open).await
    }

    async fn close(&self, site: &Site) -> Result<(), EngineError> {
        let attempt = "close a segment of the log";
        let close = async {
            let home = Session::open(site, HOME).await?;
            if open_bytes(site, &ask(&home, attempt).await?).await? > 0 {
                home.rows(attempt, "select pg_catalog.pg_switch_wal()").await?;
            }
            Ok(())
        };
        within(LIMIT, attempt, close).await
    }

    async fn piece(&self, site: &Site, from: &str) -> Result<Option<LogPiece>, EngineError> {
        let attempt = format!("read the log's segment {:?}", cut(from));
        let segment = named(&attempt, from)?;
        let ask = async || ask(&Session::open(site, HOME).await?, &attempt).await;
        let gone = |why: &str| EngineError::new(Kind::Gone, format!("{attempt}: {why}"));
        let state = within(LIMIT, &attempt, ask()).await?;
        if let Some(why) = state.gone(segment) {
            return Err(gone(why));
        }
        if state.flushed < segment.next().start() {
            return Ok(None);
        }
        let read = site.host.read_at(&place(segment), 0, SIZE).await?;
        // What is read was the segment only if the server still keeps it now.
        if let Some(why) = within(LIMIT, &attempt, ask()).await?.gone(segment) {
            return Err(gone(why));
        }
        match whole(segment, read) {
            Ok(bytes) => Ok(Some(LogPiece { from: segment.name(), until: segment.next().name(), bytes })),
            Err(why) => {
                // The slot does not keep it: no log goes on from here.
                within(LIMIT, &attempt, forget(site, &attempt)).await?;
                Err(gone(&format!("somebody has changed or removed its file: {why}")))
            }
        }
    }

    async fn stored(&self, site: &Site, until: &str) -> Result<(), EngineError> {
        let attempt = "let go of what is stored of the log";
        let until = named(attempt, until)?;
        let stored = async {
            let home = Session::open(site, HOME).await?;
            let state = ask(&home, attempt).await?;
            if until.timeline == state.timeline && until.start() > state.flushed {
                return Err(EngineError::new(Kind::Invalid, format!("{attempt}: {} is not written", until.name())));
            }
            advance(&home, attempt, &state, until).await
        };
        within(LIMIT, attempt, stored).await
    }

    async fn forget(&self, site: &Site) -> Result<(), EngineError> {
        let attempt = "keep the log no more";
        within(LIMIT, attempt, forget(site, attempt)).await
    }

    async fn take(&self, site: &Site, piece: LogPiece) -> Result<(), EngineError> {
        let attempt = format!("take the log's segment {:?}", cut(&piece.from));
        let invalid = |why: String| EngineError::new(Kind::Invalid, format!("{attempt}: {why}"));
        let segment = named(&attempt, &piece.from)?;
        if piece.until != segment.next().name() {
            return Err(invalid(format!("it does not end at {:?}", cut(&piece.until))));
        }
        if piece.bytes.len() != SIZE {
            return Err(invalid(format!("it has {} bytes", piece.bytes.len())));
        }
        segment.check(&piece.bytes).map_err(|why| invalid(why.to_owned()))?;
        let taken = replay::Taken::read(site).await?;
        let taken = taken.with(segment, segment::runs_through(&piece.bytes)).map_err(invalid)?;
        let at = place(segment);
        site.host.write(File { at, contents: piece.bytes, mode: 0o600, owner: Owner::Engine }).await?;
        taken.write(site).await
    }

    async fn replay(&self, site: &Site, until: Option<SystemTime>) -> Result<(), EngineError> {
        // The server reads its files from where this site has them.
        self.configure(site, &Settings::default()).await?;
        replay::replay(site, until).await
    }
}

const KEEP: &str = "keep the log";

fn named(attempt: &str, name: &str) -> Result<Segment, EngineError> {
    let no_name = || EngineError::new(Kind::Invalid, format!("{attempt}: {:?} is no name of a segment", cut(name)));
    Segment::parse(name).ok_or_else(no_name)
}

/// Where a segment lies.
pub(crate) fn place(segment: Segment) -> Location {
    Directory::Data.join(format!("data/pg_wal/{}", segment.name()))
}

/// Asks the server. Its views are not used: a superuser of a tenant's can put others in their place.
async fn ask(home: &Session, attempt: &str) -> Result<State, EngineError> {
    let sql = format!(
        "select l.leads, pg_catalog.current_setting('wal_segment_size'), \
         case when l.leads then pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) end, \
         case when l.leads then pg_catalog.pg_current_wal_insert_lsn() end, \
         case when l.leads then pg_catalog.pg_current_wal_flush_lsn() end, \
         s.slot_name, s.slot_type = 'physical' and not s.temporary and s.wal_status <> 'lost', s.restart_lsn \
         from (select not pg_catalog.pg_is_in_recovery() as leads) l \
         left join pg_catalog.pg_get_replication_slots() s on s.slot_name = '{SLOT}'"
    );
    let row = home.rows(attempt, &sql).await?.into_iter().next().unwrap_or_default();
    let unread =
        || EngineError::new(Kind::Fatal, format!("{attempt}: what the server says of its log is not understood"));
    let [leads, size, file, inserted, flushed, name, whole, kept] =
        <[String; 8]>::try_from(row).map_err(|_| unread())?;
    if leads != "t" {
        return Err(EngineError::new(Kind::Transient, format!("{attempt}: the server follows another one")));
    }
    if size != "16MB" {
        let reason = format!("{attempt}: its segments have {} and not 16MB", cut(&size));
        return Err(EngineError::new(Kind::Fatal, reason));
    }
    let slot = match (name.as_str(), whole.as_str(), segment::position(&kept)) {
        ("", ..) => Slot::None,
        (_, "t", Some(lsn)) => Slot::From(lsn),
        _ => Slot::Lost,
    };
    // At a segment's very end the name is that of the one before: it is read for the timeline alone.
    let timeline = Segment::parse(&file).ok_or_else(unread)?.timeline;
    let position = |text: &str| segment::position(text).ok_or_else(unread);
    Ok(State { timeline, inserted: position(&inserted)?, flushed: position(&flushed)?, slot })
}

/// As much as was written into the open segment, unless it is what the server writes by itself: after each segment that is closed it
/// does so, and to close that would go on for ever.
async fn open_bytes(site: &Site, state: &State) -> Result<u64, EngineError> {
    let (open, written) = (state.open(), segment::written(state.inserted));
    let within = usize::try_from(state.inserted - open.start()).unwrap_or(usize::MAX);
    if written == 0 || state.flushed < state.inserted || within > segment::FIRST_PAGE {
        return Ok(written);
    }
    // What cannot be read counts; whoever reads the piece says why.
    let read = site.host.read_at(&place(open), 0, within).await;
    let is_idle = matches!(read, Ok(Some(page)) if page.bytes.len() == within && open.check(&page.bytes).is_ok() && segment::is_idle(&page.bytes));
    Ok(if is_idle { 0 } else { written })
}

/// Moves the slot forward, where there is one that is whole.
async fn advance(home: &Session, attempt: &str, state: &State, until: Segment) -> Result<(), EngineError> {
    if until.timeline != state.timeline || !matches!(state.slot, Slot::From(lsn) if lsn < until.start()) {
        return Ok(());
    }
    let to = until.start();
    let sql = format!(
        "select from pg_catalog.pg_replication_slot_advance('{SLOT}', '{:X}/{:X}')",
        to >> 32,
        to & 0xffff_ffff
    );
    home.rows(attempt, &sql).await.map(|_| ())
}

async fn drop_slot(home: &Session, attempt: &str) -> Result<(), EngineError> {
    let sql = format!(
        "select pg_catalog.pg_drop_replication_slot(slot_name) from pg_catalog.pg_get_replication_slots() \
         where slot_name = '{SLOT}'"
    );
    home.rows(attempt, &sql).await.map(|_| ())
}

async fn forget(site: &Site, attempt: &str) -> Result<(), EngineError> {
    drop_slot(&Session::open(site, HOME).await?, attempt).await
}

/// A segment's bytes, when it is all there.
fn whole(segment: Segment, read: Option<Piece>) -> Result<Vec<u8>, &'static str> {
    let piece = read.ok_or("it is not there")?;
    if piece.size != segment::SIZE || piece.bytes.len() != SIZE {
        return Err("it has another size");
    }
    segment.check(&piece.bytes)?;
    Ok(piece.bytes)
}
