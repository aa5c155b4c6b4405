//! Segments of the log: their names, and as much of what is in them as has to be known (PostgreSQL's `xlog_internal.h`,
//! `xlogrecord.h`, the same from 13 to 18). Their bytes come from where a tenant can write: they are read within bounds.

/// What a segment has, unless another size was chosen when the server was made, bytes.
pub(crate) const SIZE: u64 = 16 << 20;
/// Number of the last one that there can be.
const LAST: u64 = u64::MAX / SIZE;
/// What a page of it has.
pub(crate) const PAGE: u64 = 8192;
/// What [`is_idle`] looks at, at most.
pub(crate) const FIRST_PAGE: usize = 8192;
/// The header of a page, and of a segment's first page.
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;
/// What a segment holds besides the headers of its pages.
const USABLE: u64 = (SIZE / PAGE) * (PAGE - SHORT_HEADER) - (LONG_HEADER - SHORT_HEADER);
/// A record's header.
const RECORD: usize = 24;
/// That a page's header is a long one.
const HAS_LONG_HEADER: u16 = 2;

/// A segment, which has the name of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) timeline: u32,
    number: u64,
}

impl Segment {
    /// The one in which a position lies.
    pub(crate) fn of(timeline: u32, lsn: u64) -> Self {
        Self { timeline, number: lsn / SIZE }
    }

    /// From a name of 24 hexadecimal digits.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let is_digit = |c: char| c.is_ascii_digit() || ('A'..='F').contains(&c);
        if name.len() != 24 || !name.chars().all(is_digit) {
            return None;
        }
        let part = |from: usize| u32::from_str_radix(name.get(from..from + 8)?, 16).ok();
        let (timeline, high, low) = (part(0)?, part(8)?, part(16)?);
        let number = u64::from(high) << 8 | u64::from(low);
        // The very last one has no end that is a position.
        (timeline > 0 && low < 256 && number < LAST).then_some(Self { timeline, number })
    }

    pub(crate) fn name(self) -> String {
        format!("{:08X}{:08X}{:08X}", self.timeline, self.number >> 8, self.number & 0xff)
    }

    pub(crate) fn start(self) -> u64 {
        self.number * SIZE
    }

    pub(crate) fn next(self) -> Self {
        Self { number: (self.number + 1).min(LAST), ..self }
    }

    /// What is wrong with the bytes of its beginning. A file that the server has put by to use it again has those of another one.
    pub(crate) fn check(self, bytes: &[u8]) -> Result<(), &'static str> {
        let facts = || {
            let head = Head::read(bytes)?;
            Some((head, u32::from_le_bytes(at(bytes, 32)?), u32::from_le_bytes(at(bytes, 36)?)))
        };
        match facts() {
            None => Err("it has no header"),
            Some((head, ..)) if head.magic == 0 || head.info & HAS_LONG_HEADER == 0 => Err("it has no header"),
            Some((head, ..)) if head.address != self.start() => Err("it holds another segment"),
            Some((_, size, page)) if (u64::from(size), u64::from(page)) != (SIZE, PAGE) => {
                Err("its segments have another size")
            }
            Some((head, ..)) if head.timeline > self.timeline => Err("it is of another timeline"),
            Some(_) => Ok(()),
        }
    }
}

/// A position such as `0/17414F8`.
pub(crate) fn position(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |digits: &str| u32::from_str_radix(digits, 16).ok();
    Some(u64::from(part(high)?) << 32 | u64::from(part(low)?))
}

/// What the beginning of a page says.
struct Head {
    magic: u16,
    info: u16,
    timeline: u32,
    address: u64,
    /// Of a record that began before this page, as much is still to come.
    rest: u32,
}

impl Head {
    fn read(page: &[u8]) -> Option<Self> {
        Some(Self {
            magic: u16::from_le_bytes(at(page, 0)?),
            info: u16::from_le_bytes(at(page, 2)?),
            timeline: u32::from_le_bytes(at(page, 4)?),
            address: u64::from_le_bytes(at(page, 8)?),
            rest: u32::from_le_bytes(at(page, 16)?),
        })
    }
}

fn at<const N: usize>(bytes: &[u8], from: usize) -> Option<[u8; N]> {
    bytes.get(from..from + N)?.try_into().ok()
}

/// Bytes of records in the segment that ends here.
pub(crate) fn written(inserted: u64) -> u64 {
    (inserted % SIZE).saturating_sub(LONG_HEADER)
}

/// Whether a segment's beginning, its first page at most, holds nothing but what a server writes by itself when nobody does anything:
/// which transactions run (there are none), and checkpoints. Both follow every segment that was closed.
pub(crate) fn is_idle(page: &[u8]) -> bool {
    let (Some(head), true) = (Head::read(page), page.len() <= FIRST_PAGE) else { return false };
    let mut from = usize::try_from(LONG_HEADER).unwrap_or_default();
    if head.rest != 0 {
        return false;
    }
    while from < page.len() {
        let record = || {
            let length = usize::try_from(u32::from_le_bytes(at(page, from)?)).ok()?;
            let [info, kind] = at(page, from + 16)?;
            // Checkpoints: at a shutdown, of a running server, and where such a one begins (17); running transactions. The lower
            // half of an info is common to all kinds.
            let idle = matches!((kind, info & 0xf0), (0, 0x00 | 0x10 | 0xe0) | (8, 0x10));
            (idle && length >= RECORD && from + length <= page.len()).then(|| length.next_multiple_of(8))
        };
        let Some(length) = record() else { return false };
        from += length;
    }
    true
}

/// As much of a record that began before a page, which begins so, as comes in it and after it.
pub(crate) fn rest(page: &[u8]) -> Option<u32> {
    Head::read(page).map(|head| head.rest)
}

/// Whether a record that began before the segment does not end in it.
pub(crate) fn runs_through(bytes: &[u8]) -> bool {
    rest(bytes).is_some_and(|rest| u64::from(rest) > USABLE)
}

/// Where a record would begin whose predecessor ends here: not in a page's header.
pub(crate) fn beginning(lsn: u64) -> u64 {
    match (lsn % SIZE, lsn % PAGE) {
        (0, _) => lsn + LONG_HEADER,
        (_, 0) => lsn + SHORT_HEADER,
        _ => lsn,
    }
}

/// Whether a record of this length that begins here goes on beyond the end of a segment.
pub(crate) fn goes_beyond(begins: u64, length: u32, end: u64) -> bool {
    // How many bytes of records lie before.
    let records = |lsn: u64| {
        let (page, within) = ((lsn % SIZE) / PAGE, lsn % PAGE);
        let header = if page == 0 { LONG_HEADER } else { SHORT_HEADER };
        let before =
            (page * (PAGE - SHORT_HEADER)).saturating_sub(if page == 0 { 0 } else { LONG_HEADER - SHORT_HEADER });
        (lsn / SIZE) * USABLE + before + within.saturating_sub(header)
    };
    u64::from(length) >= RECORD as u64 && records(begins) + u64::from(length) > records(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(records: &[(u8, u8, usize)]) -> Vec<u8> {
        let mut page = vec![0; 40];
        page[..8].copy_from_slice(&[0x10, 0xd1, 6, 0, 1, 0, 0, 0]);
        page[8..16].copy_from_slice(&(4 * SIZE).to_le_bytes());
        page[32..36].copy_from_slice(&(16u32 << 20).to_le_bytes());
        page[36..40].copy_from_slice(&8192u32.to_le_bytes());
        for (kind, info, length) in records {
            let mut record = vec![0; (*length).max(RECORD).next_multiple_of(8)];
            record[..4].copy_from_slice(&u32::try_from(*length).unwrap().to_le_bytes());
            (record[16], record[17]) = (*info, *kind);
            page.extend(record);
        }
        page
    }

    #[test]
    fn segments_have_the_names_of_their_files() {
        let segment = Segment::of(2, position("1/FF000028").unwrap());
        assert_eq!(segment.name(), "0000000200000001000000FF");
        assert_eq!(Segment::parse(&segment.name()), Some(segment));
        assert_eq!((segment.start(), segment.next().name().as_str()), (0x1_ff00_0000, "000000020000000200000000"));
        for wrong in ["", "000000020000000100000100", "0000000200000001000000ff", "000000000000000100000001", "../x"] {
            assert_eq!(Segment::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Segment::parse("0000000200000001000000\u{fc}"), None);
        // A server says what its tenant makes it say: there is nothing after the last one.
        let last = Segment::of(1, u64::MAX);
        assert_eq!((last.name().as_str(), last.next()), ("00000001FFFFFFFF000000FF", last));
        assert_eq!((Segment::parse(&last.name()), last.start()), (None, u64::MAX - SIZE + 1));
        assert_eq!(Segment::parse("00000001FFFFFFFF000000FE").map(|before| before.next().start()), Some(last.start()));
        assert_eq!((position("0/17414F8"), position("17414F8"), position("0/1/2")), (Some(0x017_414f8), None, None));
    }

    #[test]
    fn a_file_of_another_segment_is_not_taken_for_it() {
        let segment = Segment::of(1, 4 * SIZE);
        assert_eq!(segment.check(&page(&[])), Ok(()));
        assert!(segment.next().check(&page(&[])).is_err() && segment.check(&[0; 40]).is_err());
        assert!(segment.check(&page(&[])[..39]).is_err());
        assert!(Segment { timeline: 0, ..segment }.check(&page(&[])).is_err());
    }

    #[test]
    fn what_a_server_writes_by_itself_is_told_from_the_smallest_change() {
        let idle = [(8, 0x10, 50), (0, 0x10, 114), (0, 0xe0, 30)];
        assert!(is_idle(&page(&idle)) && is_idle(&page(&[])));
        // A commit, a sequence, a lock, a length of nothing, and one that is cut off.
        for (kind, info, length) in [(1, 0, 34), (15, 0, 99), (8, 0, 42), (8, 0x10, 0)] {
            let mut with = idle.to_vec();
            with.push((kind, info, length));
            assert!(!is_idle(&page(&with)), "{kind} {info} {length}");
        }
        assert!(!is_idle(&page(&idle)[..100]) && !is_idle(&[]) && !is_idle(&[0; 9000]));
        let mut goes_on = page(&idle);
        goes_on[16] = 1;
        assert!(!is_idle(&goes_on));
        assert_eq!((written(SIZE + 40), written(SIZE + 41), written(SIZE)), (0, 1, 0));
    }

    #[test]
    fn a_record_goes_beyond_the_end_when_the_pages_headers_do_not_leave_it_enough() {
        let end = 5 * SIZE;
        let left = u32::try_from(PAGE - SHORT_HEADER).unwrap();
        let last = end - PAGE;
        assert!(!goes_beyond(beginning(last), left, end) && goes_beyond(beginning(last), left + 1, end));
        assert!(!goes_beyond(beginning(last - PAGE), 2 * left, end));
        assert!(goes_beyond(beginning(last - PAGE), 2 * left + 1, end));
        let whole = u32::try_from(USABLE).unwrap();
        assert!(!goes_beyond(beginning(end - SIZE), whole, end) && goes_beyond(beginning(end - SIZE), whole + 1, end));
        assert!(goes_beyond(beginning(end - 2 * SIZE), 2 * whole + 1, end));
        assert!(!goes_beyond(last + 100, 0, end) && goes_beyond(end - 8, RECORD as u32, end));
    }
}
