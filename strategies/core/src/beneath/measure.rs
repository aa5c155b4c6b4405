//! How much a tree takes on the disk.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::time::{ClockId, clock_gettime};
use rustix::fs::{AtFlags, DirEntry, FileType, Mode, fstat, openat, statat};
use rustix::io::Errno;

use super::{Dir, Id, directory_flags, kind};

/// Files with several names that are remembered so as to be counted once; more are counted by each name.
const LINKED: usize = 100_000;
/// A tree that is changed while it is walked is walked again this often; then the largest sum counts.
const WALKS: u32 = 3;
/// Levels whose directories stay open: the way back to them cannot be lost, wherever they are moved meanwhile.
const OPEN: usize = 64;

/// What an entry takes at least: a file system has a bounded number of files, be they empty, links or pipes.
const ENTRY: u64 = 4096;

/// What a tree takes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// Bytes: blocks, at least 4 KiB for each entry whatever it is; each file once however many names it has.
    pub bytes: u64,
    /// Whether all of it was found. Else entries were moved or removed meanwhile, and there may be more.
    pub is_whole: bool,
}

impl Measure {
    /// Bytes that count for one entry with so many blocks of 512.
    #[must_use]
    pub fn of_blocks(blocks: u64) -> u64 {
        (blocks * 512).max(ENTRY)
    }
}

struct Walk {
    bytes: u64,
    is_whole: bool,
    linked: HashSet<Id>,
    /// Directories that were gone into: one that is moved ahead of the walk again and again is counted once.
    entered: HashSet<Id>,
    quiet: Quiet,
}

/// Who sees to it that nothing is moved past the walk.
#[derive(Clone, Copy)]
enum Quiet {
    /// Nobody. An entry that is moved from where the walk has not been to where it has been changes the directory it leaves, so
    /// a walk is whole where no directory was changed since this time (seconds and nanoseconds of the file system's clock). An
    /// owner cannot set that stamp of a directory.
    Since(i64, i64),
    /// The caller, who has stopped whoever could; until then.
    Until(Instant),
}

impl Quiet {
    fn since_now() -> io::Result<Self> {
        // The clock of the stamps: a finer one would be ahead of them.
        let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE)?;
        Ok(Self::Since(now.tv_sec(), now.tv_nsec()))
    }
}

/// A directory that the walk comes back to.
struct Above {
    id: Id,
    offset: i64,
    /// `None` below the levels that stay open.
    listing: Option<rustix::fs::Dir>,
}

impl Walk {
    fn new(quiet: Quiet) -> Self {
        Self { bytes: 0, is_whole: true, linked: HashSet::new(), entered: HashSet::new(), quiet }
    }

    /// Counts one entry; opens it when it is a directory. What has vanished may be elsewhere by now.
    fn count(&mut self, directory: BorrowedFd<'_>, entry: &DirEntry) -> Option<OwnedFd> {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            return None;
        }
        let Ok(facts) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
            self.is_whole = false;
            return None;
        };
        let id = (facts.st_dev, facts.st_ino);
        let directories = kind(&facts) == FileType::Directory;
        let seen = if directories { &mut self.entered } else { &mut self.linked };
        if directories || facts.st_nlink > 1 {
            if seen.contains(&id) {
                return None;
            }
            if seen.len() < LINKED {
                seen.insert(id);
            }
        }
        self.bytes += Measure::of_blocks(u64::try_from(facts.st_blocks).unwrap_or_default());
        if !directories {
            return None;
        }
        let opened = openat(directory, name, directory_flags(), Mode::empty());
        self.is_whole &= opened.is_ok();
        opened.ok()
    }

    /// Notes how the listing of a directory ended.
    fn leave(&mut self, directory: BorrowedFd<'_>, last: Option<Errno>) -> io::Result<()> {
        // One that was removed meanwhile has no entries.
        self.is_whole &= last.is_none_or(|error| error == Errno::NOENT);
        if let Quiet::Since(seconds, nanoseconds) = self.quiet {
            let facts = fstat(directory)?;
            let changed = (i128::from(facts.st_ctime), i128::from(facts.st_ctime_nsec));
            self.is_whole &= changed < (seconds.into(), nanoseconds.into());
        }
        Ok(())
    }

    /// Walks all of it with few directories open at a time, and remembers of the others only where they were. From far below,
    /// the way back up is only gone to the directory that the way down came from, and else to the next above it that is
    /// open; then the walk is not whole.
    fn all(&mut self, top: &Dir) -> io::Result<()> {
        let mut here = rustix::fs::Dir::new(openat(top.as_fd(), c".", directory_flags(), Mode::empty())?)?;
        let mut above: Vec<Above> = Vec::new();
        loop {
            if matches!(self.quiet, Quiet::Until(end) if Instant::now() >= end) {
                self.is_whole = false;
                return Ok(());
            }
            let last = match here.read() {
                Some(Ok(entry)) => {
                    if let Some(inner) = self.count(here.fd()?, &entry) {
                        let facts = fstat(here.fd()?)?;
                        let inner = rustix::fs::Dir::new(inner)?;
                        let left = std::mem::replace(&mut here, inner);
                        let listing = (above.len() < OPEN).then_some(left);
                        above.push(Above { id: (facts.st_dev, facts.st_ino), offset: entry.offset(), listing });
                    }
                    continue;
                }
                Some(Err(error)) => Some(error),
                None => None,
            };
            self.leave(here.fd()?, last)?;
            here = loop {
                let Some(up) = above.pop() else { return Ok(()) };
                if let Some(listing) = up.listing {
                    break listing;
                }
                // One whose way back is lost has lost it for all above that are not open either.
                match Self::go_up(&here, up.id, up.offset) {
                    Ok(Some(listing)) => break listing,
                    Ok(None) | Err(_) => self.is_whole = false,
                }
            };
        }
    }

    fn go_up(here: &rustix::fs::Dir, id: Id, offset: i64) -> io::Result<Option<rustix::fs::Dir>> {
        let up = openat(here.fd()?, c"..", directory_flags(), Mode::empty())?;
        let facts = fstat(&up)?;
        if id != (facts.st_dev, facts.st_ino) {
            return Ok(None);
        }
        let mut listing = rustix::fs::Dir::new(up)?;
        listing.seek(offset)?;
        Ok(Some(listing))
    }
}

impl Dir {
    /// What everything below takes on the disk. It is whole where nothing was made, moved or removed ahead of the walk.
    ///
    /// # Errors
    /// The directory cannot be read: that is not nothing.
    pub fn measure(&self) -> io::Result<Measure> {
        let mut most = Measure::default();
        for _ in 0..WALKS {
            let mut walk = Walk::new(Quiet::since_now()?);
            walk.all(self)?;
            most = Measure { bytes: most.bytes.max(walk.bytes), is_whole: walk.is_whole };
            if most.is_whole {
                break;
            }
        }
        Ok(most)
    }

    /// Like [`Dir::measure`], while the caller has stopped whoever could change anything below. It ends at `until`, and is
    /// then not whole.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn measure_at_rest(&self, until: Instant) -> io::Result<Measure> {
        let mut walk = Walk::new(Quiet::Until(until));
        walk.all(self)?;
        Ok(Measure { bytes: walk.bytes, is_whole: walk.is_whole })
    }

    /// Bytes that everything below the directory takes on the disk, as far as it was found ([`Dir::measure`]).
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn used_bytes(&self) -> io::Result<u64> {
        Ok(self.measure()?.bytes)
    }
}
