//! How much a tree takes on the disk.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, DirEntry, FileType, Mode, fstat, openat, statat};

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
    /// Whether all of it was found. Else directories were moved meanwhile, and there may be more.
    pub is_whole: bool,
}

impl Measure {
    /// Bytes that count for one entry with so many blocks of 512.
    #[must_use]
    pub fn of_blocks(blocks: u64) -> u64 {
        (blocks * 512).max(ENTRY)
    }
}

#[derive(Default)]
struct Walk {
    bytes: u64,
    linked: HashSet<Id>,
    /// Directories that were gone into: one that is moved ahead of the walk again and again is counted once.
    entered: HashSet<Id>,
}

/// A directory that the walk comes back to.
struct Above {
    id: Id,
    offset: i64,
    /// `None` below the levels that stay open.
    listing: Option<rustix::fs::Dir>,
}

impl Walk {
    /// Counts one entry; opens it when it is a directory. What has vanished is not counted.
    fn count(&mut self, directory: BorrowedFd<'_>, entry: &DirEntry) -> Option<OwnedFd> {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            return None;
        }
        let facts = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
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
        directories.then(|| openat(directory, name, directory_flags(), Mode::empty()).ok())?
    }

    /// Walks all of it with few directories open at a time, and remembers of the others only where they were. Whether all was
    /// found: from far below, the way back up is only gone to the directory that the way down came from, and else to the
    /// next above it that is open.
    fn all(&mut self, top: &Dir) -> io::Result<bool> {
        let mut is_whole = true;
        let mut here = rustix::fs::Dir::new(openat(top.as_fd(), c".", directory_flags(), Mode::empty())?)?;
        let mut above: Vec<Above> = Vec::new();
        loop {
            // A directory that was removed meanwhile has no entries.
            if let Some(Ok(entry)) = here.read() {
                if let Some(inner) = self.count(here.fd()?, &entry) {
                    let facts = fstat(here.fd()?)?;
                    let inner = rustix::fs::Dir::new(inner)?;
                    let left = std::mem::replace(&mut here, inner);
                    let listing = (above.len() < OPEN).then_some(left);
                    above.push(Above { id: (facts.st_dev, facts.st_ino), offset: entry.offset(), listing });
                }
                continue;
            }
            here = loop {
                let Some(up) = above.pop() else { return Ok(is_whole) };
                if let Some(listing) = up.listing {
                    break listing;
                }
                // One whose way back is lost has lost it for all above that are not open either.
                match Self::go_up(&here, up.id, up.offset) {
                    Ok(Some(listing)) => break listing,
                    Ok(None) | Err(_) => is_whole = false,
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
    /// What everything below takes on the disk.
    ///
    /// # Errors
    /// The directory cannot be read: that is not nothing.
    pub fn measure(&self) -> io::Result<Measure> {
        let mut most = Measure::default();
        for _ in 0..WALKS {
            let mut walk = Walk::default();
            let is_whole = walk.all(self)?;
            most = Measure { bytes: most.bytes.max(walk.bytes), is_whole };
            if is_whole {
                break;
            }
        }
        Ok(most)
    }

    /// Bytes that everything below the directory takes on the disk, as far as it was found ([`Dir::measure`]).
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn used_bytes(&self) -> io::Result<u64> {
        Ok(self.measure()?.bytes)
    }
}
