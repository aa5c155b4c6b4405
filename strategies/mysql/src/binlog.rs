//! Files of the log of changes: places in them, and as much of what is in them as has to be known (MariaDB's manual, "Binlog event
//! formats"; tried on 10.11). Their bytes come from where a tenant can write: they are read within bounds.
//!
//! A file is `\xfebin` and then one event after the other. Each has a header of 19 bytes: time (4), kind (1), server (4), length (4),
//! place (4), flags (2); numbers are little-endian. The first event says of what format the file is, the second one where each domain's
//! numbers of changes stand at its beginning. A change begins with an event that has the next number of its domain.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest as _, Sha256};

/// What a file's name begins with.
pub(crate) const BASE: &str = "binlog";
const MAGIC: &[u8] = b"\xfebin";
const HEADER: usize = 19;
/// An event of those that are looked at is no longer.
const LOOKED_AT: usize = 256 << 10;
/// As many domains of numbers are followed: as the longest event has place for.
const DOMAINS: usize = LOOKED_AT / LISTED;
/// Where a file's first event has its flags, and the one that says that the file was not closed.
const FLAGS: usize = 17;
const IN_USE: u8 = 1;

const FORMAT: u8 = 15;
const CHANGE: u8 = 162;
const LIST: u8 = 163;
const ENCRYPTED: u8 = 164;

/// A domain, a server and a number in the list at a file's beginning, bytes.
const LISTED: usize = 16;
/// What every event ends with where the format says so.
const SUM: usize = 4;

/// A place in the log: a file, and an offset in it. The mark is the file's own: after RESET MASTER, or on another server, another one
/// has the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) number: u64,
    pub(crate) mark: u64,
    pub(crate) offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{:016x}/{}", name(self.number), self.mark, self.offset)
    }
}

impl Place {
    /// Reads what was written so.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '/');
        let (number, mark, offset) = (number(parts.next()?)?, parts.next()?, parts.next()?);
        let place = Self { number, mark: u64::from_str_radix(mark, 16).ok()?, offset: offset.parse().ok()? };
        (place.to_string() == text).then_some(place)
    }
}

/// The name of a file.
pub(crate) fn name(number: u64) -> String {
    format!("{BASE}.{number:06}")
}

/// The number in a file's name.
pub(crate) fn number(name: &str) -> Option<u64> {
    let number = name.strip_prefix(BASE)?.strip_prefix('.')?.parse().ok()?;
    (self::name(number) == name).then_some(number)
}

/// A change's domain, server and number.
struct Change {
    domain: u32,
    server: u32,
    number: u64,
}

/// The last change of each domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position(BTreeMap<u32, (u32, u64)>);

impl Position {
    /// Reads `0-4711-12,1-4711-3`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut all = BTreeMap::new();
        for one in text.split(',').filter(|one| !one.is_empty()) {
            let [domain, server, number] = <[&str; 3]>::try_from(one.split('-').collect::<Vec<_>>()).ok()?;
            all.insert(domain.parse().ok()?, (server.parse().ok()?, number.parse().ok()?));
        }
        Some(Self(all))
    }

    fn number(&self, domain: u32) -> u64 {
        self.0.get(&domain).map_or(0, |(_, number)| *number)
    }
}

/// Where a change begins, its domain, and what was the last one of that before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Begun {
    at: u64,
    domain: u32,
    before: Option<(u32, u64)>,
}

/// What is in a file, as far as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// See [`Place::mark`].
    pub(crate) mark: u64,
    /// Whether the server has not closed it: it writes it, or has crashed.
    pub(crate) is_in_use: bool,
    /// When it was begun, seconds since 1970.
    pub(crate) begun: u32,
    /// At its beginning, where [`Walk::new`] was told to look, and at its end.
    pub(crate) first: Position,
    pub(crate) passed: Position,
    pub(crate) last: Position,
    last_change: Option<Begun>,
    /// Whether each change has the number that comes next.
    pub(crate) is_whole: bool,
    /// Whether a change before that place is of a later second than [`Walk::new`] was told.
    pub(crate) was_late: bool,
    /// Where the first change from there on begins that is of that second or of a later one.
    pub(crate) late: Option<u64>,
    /// Where its last event ends that is all there.
    pub(crate) end: u64,
}

impl Contents {
    /// Where the changes end that lead to the beginning of the next file. One that a crash has cut off is no change. `None` where they
    /// lead elsewhere, or one is missing.
    pub(crate) fn leads_to(&self, next: &Position) -> Option<u64> {
        if !self.is_whole {
            return None;
        }
        if self.last == *next {
            return Some(self.end);
        }
        let Begun { at, domain, before } = self.last_change?;
        let mut uncut = self.last.clone();
        match before {
            Some(before) => uncut.0.insert(domain, before),
            None => uncut.0.remove(&domain),
        };
        (uncut == *next).then_some(at)
    }

    /// Whether there is a change in it.
    pub(crate) fn has_changes(&self) -> bool {
        self.last_change.is_some()
    }
}

/// Reads a file from its beginning, as it comes.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    from: u64,
    until: Option<u32>,
    /// The event that is read, as much of it as is looked at.
    held: Vec<u8>,
    /// Bytes of it that are passed over.
    left: u64,
    /// Where the one after it begins.
    next: u64,
    events: u64,
    has_sums: bool,
    is_over: bool,
    format: Vec<u8>,
    contents: Contents,
}

impl Walk {
    /// Looks what the position is at an offset, and where the first change begins that is of a second or later.
    pub(crate) fn new(from: u64, until: Option<u32>) -> Self {
        let contents = Contents { is_whole: true, ..Contents::default() };
        let (held, format) = (Vec::new(), Vec::new());
        let (left, next, events, has_sums, is_over) = (0, 0, 0, false, false);
        Self { from, until, held, left, next, events, has_sums, is_over, format, contents }
    }

    /// Reads what comes next.
    ///
    /// # Errors
    /// Why this is no file of the log.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while !bytes.is_empty() && !self.is_over {
            if self.left > 0 {
                let passed = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.left -= passed as u64;
                bytes = &bytes[passed..];
            } else {
                let taken = (self.looked_at()? - self.held.len()).min(bytes.len());
                self.held.extend_from_slice(&bytes[..taken]);
                bytes = &bytes[taken..];
                if self.held.len() == self.looked_at()? {
                    self.look()?;
                }
            }
            if self.left == 0 && self.held.is_empty() {
                self.contents.end = self.next;
            }
        }
        Ok(())
    }

    /// Whether nothing is to be read of what comes.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// What was in it.
    ///
    /// # Errors
    /// It has no beginning.
    pub(crate) fn contents(mut self) -> Result<Contents, &'static str> {
        if self.events < 2 {
            return Err("it has no beginning");
        }
        if self.contents.last_change.is_none_or(|change| change.at < self.from) {
            self.contents.passed = self.contents.last.clone();
        }
        Ok(self.contents)
    }

    fn kind(&self) -> u8 {
        self.held.get(4).copied().unwrap_or_default()
    }

    fn length(&self) -> usize {
        usize::try_from(number_at::<4>(&self.held, 9).unwrap_or_default()).unwrap_or(usize::MAX)
    }

    /// How many bytes of what comes are looked at, as far as is known.
    fn looked_at(&self) -> Result<usize, &'static str> {
        match self.kind() {
            _ if self.next == 0 => Ok(MAGIC.len()),
            _ if self.held.len() < HEADER => Ok(HEADER),
            FORMAT | CHANGE | LIST if self.length() > LOOKED_AT => Err("an event of it is too long"),
            FORMAT | CHANGE | LIST => Ok(self.length().max(HEADER)),
            _ => Ok(HEADER),
        }
    }

    /// Looks at what is held.
    fn look(&mut self) -> Result<(), &'static str> {
        let held = std::mem::take(&mut self.held);
        if self.next == 0 {
            self.next = MAGIC.len() as u64;
            return if held == MAGIC { Ok(()) } else { Err("it is no log of changes") };
        }
        let length = number_at::<4>(&held, 9).unwrap_or_default();
        if length < HEADER as u64 {
            // What a crash of the machine has left.
            self.is_over = true;
            return Ok(());
        }
        let at = self.next;
        match (self.events, held[4]) {
            (0, FORMAT) => self.format(&held).ok_or("its format is not understood")?,
            (1, LIST) => self.list(&held).ok_or("its beginning is not understood")?,
            (0 | 1, _) => return Err("its beginning is not understood"),
            (_, CHANGE) => self.change(at, &held)?,
            (_, ENCRYPTED) => return Err("it is encrypted"),
            (_, FORMAT | LIST) => return Err("it begins again"),
            _ => {}
        }
        self.events += 1;
        self.next = at + length;
        self.left = length - held.len() as u64;
        Ok(())
    }

    /// The version of the format (2), of the server (50), a time (4), the length of headers (1), and for each kind of event one more;
    /// what sums there are (1), and one.
    fn format(&mut self, event: &[u8]) -> Option<()> {
        let (version, header) = (number_at::<2>(event, HEADER)?, event.get(HEADER + 56)?);
        let sums = *event.get(event.len().checked_sub(SUM + 1)?)?;
        if version != 4 || usize::from(*header) != HEADER || sums > 1 {
            return None;
        }
        self.has_sums = sums == 1;
        self.contents.is_in_use = event[FLAGS] & IN_USE != 0;
        self.contents.begun = u32::try_from(number_at::<4>(event, 0)?).ok()?;
        event.clone_into(&mut self.format);
        self.format[FLAGS..HEADER].fill(0);
        Some(())
    }

    /// How many there are (28 bits of 4 bytes), and each. The last one of a domain is the last change of it.
    fn list(&mut self, event: &[u8]) -> Option<()> {
        let count = usize::try_from(number_at::<4>(event, HEADER)? & 0x0fff_ffff).ok()?;
        let listed = event.get(HEADER + 4..event.len() - if self.has_sums { SUM } else { 0 })?;
        if listed.len() != count * LISTED {
            return None;
        }
        for one in listed.chunks_exact(LISTED) {
            let part = |from: usize| u32::try_from(number_at::<4>(one, from)?).ok();
            self.contents.first.0.insert(part(0)?, (part(4)?, number_at::<8>(one, 8)?));
        }
        self.contents.last = self.contents.first.clone();
        let digest = Sha256::new().chain_update(&self.format).chain_update(event).finalize();
        self.contents.mark = number_at::<8>(&digest, 0)?;
        Some(())
    }

    /// A number (8) and a domain (4), after which more may come.
    fn change(&mut self, at: u64, event: &[u8]) -> Result<(), &'static str> {
        let read = || {
            let part = |from: usize| u32::try_from(number_at::<4>(event, from)?).ok();
            let number = number_at::<8>(event, HEADER)?;
            Some((part(0)?, Change { domain: part(HEADER + 8)?, server: part(5)?, number }))
        };
        let (time, change) = read().ok_or("a change has no number")?;
        let contents = &mut self.contents;
        if at >= self.from && contents.last_change.is_none_or(|before| before.at < self.from) {
            contents.passed = contents.last.clone();
        }
        contents.is_whole &= contents.last.number(change.domain).checked_add(1) == Some(change.number);
        let before = contents.last.0.insert(change.domain, (change.server, change.number));
        if contents.last.0.len() > DOMAINS {
            return Err("it has too many domains");
        }
        contents.last_change = Some(Begun { at, domain: change.domain, before });
        match self.until {
            Some(until) if at < self.from => contents.was_late |= time > until,
            Some(until) if time >= until => contents.late = contents.late.or(Some(at)),
            _ => {}
        }
        Ok(())
    }
}

fn number_at<const N: usize>(bytes: &[u8], from: usize) -> Option<u64> {
    let mut number = [0; 8];
    number[..N].copy_from_slice(bytes.get(from..from.checked_add(N)?)?);
    Some(u64::from_le_bytes(number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(time: u32, kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len() + SUM).unwrap();
        let head = [&time.to_le_bytes()[..], &[kind], &7u32.to_le_bytes(), &length.to_le_bytes(), &[0; 6]].concat();
        [&head[..], body, &[0x55; SUM]].concat()
    }

    fn change(time: u32, number: u64) -> Vec<u8> {
        event(time, CHANGE, &[&number.to_le_bytes()[..], &[0; 11]].concat())
    }

    /// The beginning of a file before which changes of the domain 0 came to this number.
    fn begun(time: u32, number: u64) -> Vec<u8> {
        let mut format = vec![0; 2 + 50 + 4 + 1 + 200 + 1];
        (format[0], format[56]) = (4, 19);
        *format.last_mut().unwrap() = 1;
        let listed = if number == 0 {
            vec![0; 4]
        } else {
            [&1u32.to_le_bytes()[..], &[0; 4], &7u32.to_le_bytes(), &number.to_le_bytes()].concat()
        };
        [MAGIC, &event(time, FORMAT, &format), &event(time, LIST, &listed)].concat()
    }

    fn walked(file: &[u8], from: u64, until: Option<u32>) -> Result<Contents, &'static str> {
        let mut walk = Walk::new(from, until);
        walk.read(file)?;
        walk.contents()
    }

    #[test]
    fn places_are_read_as_they_are_written_and_no_others() {
        let place = Place { number: 12, mark: 0xab, offset: 16_777_216 };
        assert_eq!(place.to_string(), "binlog.000012/00000000000000ab/16777216");
        assert_eq!(Place::parse(&place.to_string()), Some(place));
        let last = Place { number: u64::MAX, mark: u64::MAX, offset: u64::MAX };
        assert_eq!(Place::parse(&last.to_string()), Some(last));
        for wrong in [
            "",
            "binlog.000012",
            "binlog.12/00000000000000ab/0",
            "binlog.000012/ab/0",
            "binlog.000012/00000000000000AB/0",
            "binlog.000012/00000000000000ab/+1",
            "binlog.000012/00000000000000ab/01",
            "binlog.000012/00000000000000ab/0/0",
            "../binlog.000012/00000000000000ab/0",
        ] {
            assert_eq!(Place::parse(wrong), None, "{wrong:?}");
        }
        assert_eq!(
            (number("binlog.1000000"), number("binlog.index"), number("other.000001")),
            (Some(1_000_000), None, None)
        );
    }

    #[test]
    fn a_file_leads_from_the_numbers_at_its_beginning_to_those_at_its_end() {
        let position = |text: &str| Position::parse(text).unwrap();
        let checkpoint = event(9, 161, b"binlog.000001");
        let file = [begun(5, 3), change(6, 4), event(6, 16, &[0; 8]), checkpoint, change(8, 5)].concat();
        let contents = walked(&file, 0, None).unwrap();
        assert_eq!((contents.begun, contents.is_in_use, contents.is_whole), (5, false, true));
        assert_eq!((&contents.first, &contents.last), (&position("0-7-3"), &position("0-7-5")));
        assert_eq!((contents.end, contents.leads_to(&position("0-7-5"))), (file.len() as u64, Some(file.len() as u64)));
        // The last change is cut off, in an event or between two.
        let last = (file.len() - change(8, 5).len()) as u64;
        assert_eq!(contents.leads_to(&position("0-7-4")), Some(last));
        assert_eq!((contents.leads_to(&position("0-7-3")), contents.leads_to(&position("0-7-6"))), (None, None));
        let cut = walked(&file[..file.len() - 1], 0, None).unwrap();
        assert_eq!((cut.end, cut.leads_to(&position("0-7-4"))), (last, Some(last)));
        // One in the middle is missing.
        let without = [begun(5, 3), change(8, 5)].concat();
        assert!(walked(&without, 0, None).unwrap().leads_to(&position("0-7-5")).is_none());
        // The first change of all.
        let first = walked(&[begun(5, 0), change(6, 1)].concat(), 0, None).unwrap();
        assert_eq!((first.leads_to(&position("")), first.has_changes()), (Some(begun(5, 0).len() as u64), true));
        assert!(!walked(&begun(5, 3), 0, None).unwrap().has_changes());
    }

    #[test]
    fn files_of_the_same_number_have_other_marks() {
        let mark = |file: &[u8]| walked(file, 0, None).unwrap().mark;
        let mut open = begun(5, 3);
        open[MAGIC.len() + FLAGS] = IN_USE;
        assert!(walked(&open, 0, None).unwrap().is_in_use);
        assert_eq!(mark(&open), mark(&[begun(5, 3), change(6, 4)].concat()), "it has another one once it is closed");
        assert!(mark(&open) != mark(&begun(6, 3)) && mark(&open) != mark(&begun(5, 4)));
    }

    #[test]
    fn the_first_change_of_a_second_is_found_from_a_place_on() {
        let file = [begun(5, 0), change(6, 1), change(7, 2), change(9, 3), change(8, 4)].concat();
        let at = |number: usize| (begun(5, 0).len() + (number - 1) * change(0, 0).len()) as u64;
        let late = |from, until| {
            let contents = walked(&file, from, Some(until)).unwrap();
            (contents.was_late, contents.late, contents.passed)
        };
        let position = |number: u64| Position::parse(&format!("0-7-{number}")).unwrap();
        assert_eq!(late(at(1), 6), (false, Some(at(1)), Position::default()));
        assert_eq!(late(at(2), 8), (false, Some(at(3)), position(1)));
        assert_eq!(late(at(3), 7), (false, Some(at(3)), position(2)));
        assert_eq!(late(at(3), 6), (true, Some(at(3)), position(2)));
        assert_eq!(late(at(5), 20), (false, None, position(4)));
    }

    #[test]
    fn what_is_no_file_of_the_log_is_refused() {
        let encrypted = [begun(5, 0), event(5, ENCRYPTED, &[0; 17])].concat();
        let again = [begun(5, 0), begun(5, 0)[MAGIC.len()..].to_vec()].concat();
        let long =
            [begun(5, 0), vec![0, 0, 0, 0, CHANGE, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0, 0, 0]].concat();
        let mut other = begun(5, 0);
        other[MAGIC.len() + HEADER] = 3;
        for wrong in [&b"\xfebi"[..], b"xxxxxxxxxxx", &begun(5, 0)[..200], &encrypted, &again, &long, &other] {
            assert!(walked(wrong, 0, None).is_err());
        }
        // A crash of the machine leaves zeros.
        let zeros = [begun(5, 0), change(6, 1), vec![0; 100]].concat();
        assert_eq!(walked(&zeros, 0, None).unwrap().end, (zeros.len() - 100) as u64);
    }

    proptest! {
        #[test]
        fn however_a_file_comes_what_is_in_it_is_the_same(
            changes in proptest::collection::vec((any::<u32>(), 0..4u64, 0..60usize), 0..6),
            damage in proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
            lengths in proptest::collection::vec(1..80usize, 1..20),
        ) {
            let mut file = begun(5, 1);
            for (time, number, more) in changes {
                file.extend(change(time, number));
                file.extend(event(time, 2, &vec![0; more]));
            }
            if let Some((at, byte)) = damage {
                let at = at.index(file.len());
                file[at] = byte;
            }
            let (mut walk, mut rest, mut lengths) = (Walk::new(300, Some(7)), file.as_slice(), lengths.into_iter().cycle());
            let mut read = Ok(());
            while read.is_ok() && !rest.is_empty() {
                let (piece, later) = rest.split_at(lengths.next().unwrap_or(1).min(rest.len()));
                read = walk.read(piece);
                rest = later;
            }
            prop_assert_eq!(read.and_then(|()| walk.contents()), walked(&file, 300, Some(7)));
        }
    }
}
