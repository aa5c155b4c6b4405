//! How much a tree takes on the disk.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, DirEntry, FileType, Mode, fstat, openat, statat};

use super::{Dir, Id, directory_flags, kind};

/// Files with several names that are remembered so as to be counted once; more are counted by each name.
const LINKED: usize = 100_000;
/// A tree that is changed while it is walked is walked again this often; then the largest sum counts.
const WALKS: u32 = 3;

#[derive(Default)]
struct Walk {
    bytes: u64,
    linked: HashSet<Id>,
}

impl Walk {
    /// Counts one entry; opens it when it is a directory. What has vanished is not counted.
    fn count(&mut self, directory: &OwnedFd, entry: &DirEntry) -> Option<OwnedFd> {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            return None;
        }
        let facts = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let id = (facts.st_dev, facts.st_ino);
        let directories = kind(&facts) == FileType::Directory;
        if !directories && facts.st_nlink > 1 {
            if self.linked.contains(&id) {
                return None;
            }
            if self.linked.len() < LINKED {
                self.linked.insert(id);
            }
        }
        self.bytes += u64::try_from(facts.st_blocks).unwrap_or_default() * 512;
        directories.then(|| openat(directory, name, directory_flags(), Mode::empty()).ok())?
    }

    /// Walks all of it with one directory open at a time, and remembers of those above only where it was. Whether it
    /// stood still meanwhile: the way back up is only gone to the directory that the way down came from.
    fn all(&mut self, top: &Dir) -> io::Result<bool> {
        let mut here = openat(top.as_fd(), c".", directory_flags(), Mode::empty())?;
        let mut listing = rustix::fs::Dir::read_from(&here)?;
        let mut above: Vec<(Id, i64)> = Vec::new();
        loop {
            if let Some(Ok(entry)) = listing.read() {
                if let Some(inner) = self.count(&here, &entry) {
                    let facts = fstat(&here)?;
                    above.push(((facts.st_dev, facts.st_ino), entry.offset()));
                    listing = rustix::fs::Dir::read_from(&inner)?;
                    here = inner;
                }
                continue;
            }
            let Some((id, offset)) = above.pop() else { return Ok(true) };
            let up = openat(&here, c"..", directory_flags(), Mode::empty())?;
            let facts = fstat(&up)?;
            if id != (facts.st_dev, facts.st_ino) {
                return Ok(false);
            }
            listing = rustix::fs::Dir::read_from(&up)?;
            listing.seek(offset)?;
            here = up;
        }
    }
}

impl Dir {
    /// Bytes that everything below takes on the disk: blocks, each file once however many names it has.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn used_bytes(&self) -> io::Result<u64> {
        let mut most = 0;
        for _ in 0..WALKS {
            let mut walk = Walk::default();
            let still = walk.all(self);
            most = most.max(walk.bytes);
            if still? {
                break;
            }
        }
        Ok(most)
    }
}
