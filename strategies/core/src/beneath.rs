//! Work on files below a directory that another account can change.
//!
//! Whoever can change a directory decides what a path through it means, and may change his mind between two calls. So a
//! process with more rights than that account holds the directory open and goes on from the handle alone: the kernel
//! refuses links and ways out (`openat2`), what was opened is looked at before anything is done, and modes and owners
//! are given to what is open and never to a name. This is the only module that does so.

#![allow(clippy::disallowed_methods, reason = "the one module that does it right")]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, fchmod, fchown, fstat, fsync, mkdirat, openat,
    openat2, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::host::Piece;

mod measure;
#[cfg(test)]
mod tests;

pub use measure::Measure;

/// Names that are read of a directory at once: a tenant can make more of them than there is memory.
const BATCH: usize = 1024;
/// A tree that has not gone by then grows as fast as it is removed.
const REMOVAL: Duration = Duration::from_secs(600);
/// How often the kernel is asked again when a rename somewhere made it unsure, or a name was taken meanwhile.
const TRIES: u32 = 16;

/// What identifies a file while it is there.
type Id = (u64, u64);

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// A directory that is held open, and whose files may be worked on below it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dir {
    handle: Arc<OwnedFd>,
    owners: Arc<[u32]>,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// What is opened is a directory, and no link.
fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC
}

fn open_beneath(start: impl AsFd, below: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        match openat2(&start, below, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < TRIES => tries += 1,
            Err(Errno::NOTDIR) if flags.contains(OFlags::DIRECTORY) => return Err(no_directory(below)),
            Err(Errno::LOOP) if flags.contains(OFlags::DIRECTORY) => {
                return Err(io::Error::other(no_directory(below).to_string()));
            }
            Err(Errno::LOOP) => return Err(io::Error::other("there is a symbolic link, which is not followed")),
            opened => return Ok(opened?),
        }
    }
}

/// Something else is where a directory of the engine's was or is to be. A tenant reads this, and can mend it.
fn no_directory(below: &Path) -> io::Error {
    let reason = format!("{} is no directory of this engine (a link or another file lies there)", below.display());
    io::Error::new(io::ErrorKind::NotADirectory, reason)
}

fn refused(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason)
}

/// Plain names alone lead below a directory.
fn plain(below: &Path) -> io::Result<(&Path, &OsStr)> {
    let named = |part: Component| matches!(part, Component::Normal(_));
    match (below.parent(), below.file_name()) {
        (Some(parent), Some(name)) if below.components().all(named) => Ok((parent, name)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "a path below a directory has plain names only")),
    }
}

fn not_found(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn kind(facts: &Stat) -> FileType {
    FileType::from_raw_mode(facts.st_mode)
}

/// Replaces a file by its path, as [`Dir::write`] does, 0600. As with [`Dir::open`] the caller vouches that nobody else can
/// change any directory above it.
///
/// # Errors
/// The system refused; what was there before is untouched.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no path of a file"));
    };
    Dir::open(parent, &[])?.write(Path::new(name), contents, 0o600, None)
}

/// Gives away what is open. The order matters: a change of the owner takes mode bits away.
fn give(handle: impl AsFd, mode: u32, owner: Option<Ids>) -> io::Result<()> {
    if let Some(Ids { uid, gid }) = owner {
        fchown(&handle, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok(fchmod(&handle, Mode::from_raw_mode(mode))?)
}

impl Dir {
    /// Opens a directory by its path. The caller vouches that nobody else can change any directory above it. `owners`
    /// are the users whose files may be worked on; nobody in the list stands for anybody, which is for removing alone.
    ///
    /// # Errors
    /// It is not there, no directory, or somebody else's.
    pub fn open(path: &Path, owners: &[u32]) -> io::Result<Self> {
        let flags = directory_flags().difference(OFlags::NOFOLLOW);
        let handle = openat(rustix::fs::CWD, path, flags, Mode::empty())?;
        Self::checked(handle, owners.into())
    }

    /// Makes a directory by its path, with what is missing above it, and gives it its mode and owner. As with
    /// [`Dir::open`] the caller vouches for what is above.
    ///
    /// # Errors
    /// It cannot be made, or is somebody else's.
    pub fn make(path: &Path, mode: u32, owner: Option<Ids>, owners: &[u32]) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let made = Self::open(path, owners)?;
        give(&made, mode, owner)?;
        Ok(made)
    }

    fn checked(handle: OwnedFd, owners: Arc<[u32]>) -> io::Result<Self> {
        let uid = fstat(&handle)?.st_uid;
        if !owners.is_empty() && !owners.contains(&uid) {
            return Err(refused(format!("the directory belongs to uid {uid}")));
        }
        Ok(Self { handle: Arc::new(handle), owners })
    }

    /// Opens a directory below this one.
    ///
    /// # Errors
    /// It is not there, no directory, a link, or somebody else's.
    pub fn directory(&self, below: &Path) -> io::Result<Self> {
        plain(below)?;
        Self::checked(open_beneath(self, below, directory_flags())?, self.owners.clone())
    }

    /// The directory in which something lies, and its name there.
    fn around<'a>(&self, below: &'a Path) -> io::Result<(Self, &'a OsStr)> {
        let (parent, name) = plain(below)?;
        let parent = if parent.as_os_str().is_empty() { self.clone() } else { self.directory(parent)? };
        Ok((parent, name))
    }

    /// Makes a directory below this one, or finds it made, and gives it its mode and owner.
    ///
    /// # Errors
    /// It cannot be made, or something else is there.
    pub fn make_directory(&self, below: &Path, mode: u32, owner: Option<Ids>) -> io::Result<Self> {
        let (parent, name) = self.around(below)?;
        match mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let made = parent.directory(Path::new(name))?;
        give(&made, mode, owner)?;
        fsync(&parent)?;
        Ok(made)
    }

    /// Opens what is there without looking into it, for what only the caller can judge: a socket, say. A link is not
    /// followed, nothing is read, no device is touched.
    ///
    /// # Errors
    /// It is not there, or is a link.
    pub fn handle(&self, below: &Path) -> io::Result<OwnedFd> {
        plain(below)?;
        open_beneath(self, below, OFlags::PATH | OFlags::NOFOLLOW)
    }

    /// Opens a file to be read, or answers `None` when it is not there.
    fn file(&self, below: &Path) -> io::Result<Option<(File, u64)>> {
        plain(below)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let handle = match open_beneath(self, below, flags) {
            Err(error) if not_found(&error) => return Ok(None),
            opened => opened?,
        };
        let facts = fstat(&handle)?;
        if kind(&facts) != FileType::RegularFile {
            return Err(refused("it is no regular file".to_owned()));
        }
        if facts.st_nlink > 1 {
            return Err(refused(format!("it has {} names: it may be somebody else's", facts.st_nlink)));
        }
        if !self.owners.contains(&facts.st_uid) {
            return Err(refused(format!("it belongs to uid {}", facts.st_uid)));
        }
        Ok(Some((handle.into(), facts.st_size.unsigned_abs())))
    }

    /// The bytes of a file, or `None` when it is not there.
    ///
    /// # Errors
    /// It is larger than `limit`, no regular file, has a second name, or is somebody else's.
    pub fn read(&self, below: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some((file, _)) = self.file(below)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
        }
        Ok(Some(bytes))
    }

    /// At most `limit` bytes of a file from `offset` on, or `None` when it is not there.
    ///
    /// # Errors
    /// It is no regular file, has a second name, or is somebody else's.
    pub fn read_at(&self, below: &Path, offset: u64, limit: usize) -> io::Result<Option<Piece>> {
        let Some((mut file, size)) = self.file(below)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(offset))?;
        file.take(limit as u64).read_to_end(&mut bytes)?;
        Ok(Some(Piece { bytes, size }))
    }

    /// Replaces a file as one step: written beside, flushed, renamed, the directory flushed.
    ///
    /// # Errors
    /// The system refused; what was there before is untouched.
    pub fn write(&self, below: &Path, contents: &[u8], mode: u32, owner: Option<Ids>) -> io::Result<()> {
        let (parent, name) = self.around(below)?;
        let mut beside = OsString::from(".");
        beside.push(name);
        beside.push(".new");
        let mut file = parent.new_file(&beside)?;
        // Zeros at the end take no room: a segment of an engine's log may be nearly empty.
        let used = contents.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let written = file
            .write_all(&contents[..used])
            .and_then(|()| file.set_len(contents.len() as u64))
            .and_then(|()| give(&file, mode, owner))
            .and_then(|()| file.sync_all())
            .and_then(|()| Ok(renameat(&parent, &beside, &parent, name)?))
            .and_then(|()| Ok(fsync(&parent)?));
        if written.is_err() {
            // On a full disk the half written file is in the way; the first error is the one to tell.
            let _ = unlinkat(&parent, &beside, AtFlags::empty());
        }
        written
    }

    /// A file that was not there before. What a crash, or somebody else, left under its name is removed first.
    fn new_file(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..TRIES {
            self.remove(Path::new(name))?;
            match openat(self, name, flags, Mode::RUSR | Mode::WUSR) {
                Err(Errno::EXIST) => {}
                made => return Ok(made?.into()),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "somebody makes it again and again"))
    }

    /// Whether something is there, be it a link.
    ///
    /// # Errors
    /// The way to it is not to be gone.
    pub fn exists(&self, below: &Path) -> io::Result<bool> {
        let looked = self.around(below).and_then(|(parent, name)| {
            statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(())
        });
        match looked {
            Err(error) if not_found(&error) => Ok(false),
            looked => looked.map(|()| true),
        }
    }

    /// Renames below this directory, whatever it is, and flushes both directories.
    ///
    /// # Errors
    /// It is not there, or something is in the way.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let ((from_parent, from), (to_parent, name)) = (self.around(from)?, self.around(to)?);
        match renameat(&from_parent, from, &to_parent, name) {
            Err(Errno::NOTDIR) => return Err(no_directory(to)),
            renamed => renamed?,
        }
        fsync(&to_parent)?;
        Ok(fsync(&from_parent)?)
    }

    /// At most `limit` names of what is in this directory.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn names(&self, limit: usize) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(self)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
            if names.len() >= limit {
                break;
            }
        }
        Ok(names)
    }

    /// Removes a file, or a directory with everything below it; what is not there counts as removed. Links are removed,
    /// never followed.
    ///
    /// # Errors
    /// The system refused, a directory is somebody else's, or more is made while it is removed.
    pub fn remove(&self, below: &Path) -> io::Result<()> {
        let (parent, name) = match self.around(below) {
            Err(error) if not_found(&error) => return Ok(()),
            around => around?,
        };
        if parent.remove_leaf(name)? {
            return Ok(());
        }
        match parent.directory(Path::new(name)) {
            Err(error) if not_found(&error) => return Ok(()),
            top => top?.empty()?,
        }
        match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes everything in this directory. Neither the stack nor the number of open files grows with the depth, of
    /// which a tenant can make any: one directory is open at a time, and the way back up is only gone to the directory
    /// that the way down came from.
    ///
    /// # Errors
    /// As [`Dir::remove`].
    pub fn empty(&self) -> io::Result<()> {
        let end = Instant::now() + REMOVAL;
        let mut here = self.clone();
        let mut above: Vec<(Id, OsString)> = Vec::new();
        loop {
            if Instant::now() > end {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it was not empty within ten minutes"));
            }
            if let Some(name) = here.remove_leaves()? {
                match here.directory(Path::new(&name)) {
                    Err(error) if not_found(&error) => {}
                    inner => {
                        let inner = inner?;
                        above.push((here.id()?, name));
                        here = inner;
                    }
                }
                continue;
            }
            let Some((id, name)) = above.pop() else { return Ok(()) };
            let up = openat(&here, c"..", directory_flags(), Mode::empty())?;
            let facts = fstat(&up)?;
            if id == (facts.st_dev, facts.st_ino) {
                here = Self::checked(up, self.owners.clone())?;
                here.remove_leaf(&name)?;
            } else {
                // It was moved meanwhile: what it was moved to is found from the top, if it is still below.
                here = self.clone();
                above.clear();
            }
        }
    }

    fn id(&self) -> io::Result<Id> {
        let facts = fstat(self)?;
        Ok((facts.st_dev, facts.st_ino))
    }

    /// Removes what is in this directory up to a directory that is not empty, which it names.
    fn remove_leaves(&self) -> io::Result<Option<OsString>> {
        loop {
            let names = self.names(BATCH)?;
            if names.is_empty() {
                return Ok(None);
            }
            for name in names {
                if !self.remove_leaf(&name)? {
                    return Ok(Some(name));
                }
            }
        }
    }

    /// Removes what is not, or no more, a directory with something in it. Whether it is gone.
    fn remove_leaf(&self, name: &OsStr) -> io::Result<bool> {
        match unlinkat(self, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        match unlinkat(self, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
