//! The files of the directory. All calls block. Each may be cut off at any instant: an object is written beside its place, and gets
//! its name when it is whole and on the disk.
//!
//! What deletes a backup, or keeps one run of it, first makes a file that says so, then removes. What writes an object first makes
//! it, then looks for that file, and takes the object away again if it is there. So of the two one sees the other, whichever
//! controllers they belong to, and nothing comes back. What a kill leaves between them the sweep removes.
//!
//! A file names the directory by a number that the store knows. Where it is missing or another, the directory is not mounted or was
//! replaced, and nothing is written or removed: a deletion would count objects as gone that are elsewhere.

#![allow(clippy::disallowed_methods, reason = "a directory of the controller alone, 0700")]

use std::fs::{DirBuilder, File, Metadata};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use trove_proto::backup::MANIFEST_NAME;
use trove_strategy::beneath::Dir;
use trove_strategy::failpoint;

use crate::ids::BackupId;

/// The end of the name of the file that says that a backup was deleted.
const DELETED: &str = ".deleted";
/// The file of a backup that names the run that is kept.
const SEALED: &str = "sealed";
/// The file that names the directory.
const STORAGE: &str = "storage";
/// How often a directory is removed anew, into which something was written meanwhile.
const TRIES: u32 = 16;
/// An unfinished file that was not written for this long belongs to no request.
const ABANDONED: Duration = Duration::from_secs(3600);
/// After this no request of before a deletion can be there any more.
const SETTLED: Duration = Duration::from_secs(24 * 3600);

/// Whether this is the name of a run, as an agent draws it.
pub(super) fn is_run(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_object(text: &str) -> bool {
    text == MANIFEST_NAME || (text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Where an object lies. It has checked names alone, so that it leads nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    backup: BackupId,
    run: String,
    name: String,
}

impl Place {
    /// `None` if these are no names of a run and an object.
    pub(super) fn new(backup: BackupId, run: &str, name: &str) -> Option<Self> {
        let named = is_run(run) && is_object(name);
        named.then(|| Self { backup, run: run.to_owned(), name: name.to_owned() })
    }

    pub(super) fn backup(&self) -> BackupId {
        self.backup
    }

    pub(super) fn run(&self) -> &str {
        &self.run
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The path by which agents ask for it.
    pub(super) fn url(&self) -> String {
        format!("/objects/{}/{}/{}", self.backup, self.run, self.name)
    }
}

/// Why an object is not stored.
#[derive(Debug)]
pub(super) enum NotStored {
    /// It is there already.
    Exists,
    /// The backup was deleted, or another run is kept.
    Closed,
    /// The disk is full.
    Full,
    Failed(io::Error),
}

impl From<io::Error> for NotStored {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::AlreadyExists => Self::Exists,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Failed(error),
        }
    }
}

/// A backup of which there are objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub backup: BackupId,
    /// Of all its objects.
    pub bytes: u64,
    /// Since anything of it was last written.
    pub age: Duration,
}

/// The directory of all backups. Cheap to clone.
#[derive(Clone)]
pub(super) struct Directory {
    path: Arc<Path>,
    /// What its file has to say.
    storage: i64,
}

impl Directory {
    /// Opens it, makes it if absent, and closes it to others. Without the number that is expected it is named by the one in its
    /// file, which is drawn where there is none.
    pub(super) fn open(path: PathBuf, expected: Option<i64>) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        drop(Dir::make(&path, 0o700, None, &owners())?);
        let storage = match expected {
            Some(storage) => storage,
            None => first_named(&path)?,
        };
        Ok(Self { path: path.into(), storage })
    }

    /// The number that names it.
    pub(super) fn storage(&self) -> i64 {
        self.storage
    }

    /// Whether it is the one that was opened first.
    ///
    /// # Errors
    /// It is not, or cannot be read.
    pub(super) fn check(&self) -> io::Result<()> {
        let (found, expected) = (named(&self.path)?, self.storage);
        if found == Some(expected) {
            return Ok(());
        }
        let found = found.map_or_else(|| format!("has no file {STORAGE:?}"), |found| format!("is storage {found}"));
        let text = format!(
            "{} is not the directory in which this service keeps its backups: it {found} and not {expected}. Is it mounted? Where \
             it takes the other's place for good, write {expected} into that file",
            self.path.display()
        );
        Err(io::Error::other(text))
    }

    /// The directory, to remove something in it.
    fn handle(&self) -> io::Result<Dir> {
        self.check()?;
        Dir::open(&self.path, &owners())
    }

    fn backup(&self, backup: BackupId) -> PathBuf {
        self.path.join(backup.to_string())
    }

    fn run(&self, place: &Place) -> PathBuf {
        self.backup(place.backup).join(&place.run)
    }

    fn deleted(&self, backup: BackupId) -> PathBuf {
        self.path.join(format!("{backup}{DELETED}"))
    }

    /// Whether nothing of the backup may be written any more.
    pub(super) fn is_closed(&self, backup: BackupId) -> io::Result<bool> {
        Ok(self.deleted(backup).try_exists()? || self.backup(backup).join(SEALED).try_exists()?)
    }

    /// Opens an object, and tells its size; `None` if it is not there.
    pub(super) fn read(&self, place: &Place) -> io::Result<Option<(File, u64)>> {
        let file = match File::open(self.run(place).join(&place.name)) {
            // Where the directory is another one, it says nothing of the object.
            Err(error) if error.kind() == ErrorKind::NotFound => return self.check().map(|()| None),
            opened => opened?,
        };
        let bytes = file.metadata()?.len();
        Ok(Some((file, bytes)))
    }

    /// Begins to write an object: a file beside its place, which is gone with the result, unless that is completed.
    pub(super) fn begin(&self, place: Place) -> Result<(File, New), NotStored> {
        self.check()?;
        if self.is_closed(place.backup)? {
            return Err(NotStored::Closed);
        }
        let run = self.run(&place);
        if run.join(&place.name).try_exists()? {
            return Err(NotStored::Exists);
        }
        let beside = run.join(format!(".{}.{:016x}", place.name, rand::random::<u64>()));
        let begun = make_closed(&self.backup(place.backup)).and_then(|()| make_closed(&run)).and_then(|()| {
            let mut options = File::options();
            options.write(true).create_new(true).mode(0o600).open(&beside)
        });
        match begun {
            Ok(file) => Ok((file, New { directory: self.clone(), place, beside })),
            Err(error) => Err(self.judge(place.backup, error)),
        }
    }

    /// A deletion takes the directory away from under what is written: then that is the reason.
    fn judge(&self, backup: BackupId, error: io::Error) -> NotStored {
        match self.is_closed(backup) {
            Ok(true) if error.kind() == ErrorKind::NotFound => NotStored::Closed,
            _ => error.into(),
        }
    }

    /// Removes the backup, and sees to it that nothing of it is written any more.
    pub(super) fn delete(&self, backup: BackupId) -> io::Result<()> {
        self.check()?;
        say(&self.path, &format!("{backup}{DELETED}"), b"")?;
        self.remove(Path::new(&backup.to_string()))?;
        flush(&self.path)
    }

    /// Removes every run of the backup but this one, and sees to it that nothing of it is written any more.
    pub(super) fn keep_only(&self, backup: BackupId, run: &str) -> io::Result<()> {
        self.check()?;
        let path = self.backup(backup);
        if !is_run(run) || !path.join(run).try_exists()? {
            return Err(io::Error::new(ErrorKind::NotFound, "there is no such run"));
        }
        match self.kept(backup)? {
            Some(kept) if kept == run => {}
            Some(kept) => return Err(io::Error::other(format!("run {kept} is the one that is kept"))),
            None => say(&path, SEALED, run.as_bytes())?,
        }
        flush(&path)?;
        if let Err(error) = self.remove_others(backup, run) {
            // The sweep tries again. The backup is good without it.
            tracing::warn!("other runs of backup {backup} could not be removed: {error}");
        }
        Ok(())
    }

    /// The run that is kept, once that is decided.
    fn kept(&self, backup: BackupId) -> io::Result<Option<String>> {
        match std::fs::read_to_string(self.backup(backup).join(SEALED)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Ok(run) if !is_run(&run) => Err(io::Error::other(format!("{SEALED} of backup {backup} names no run"))),
            read => read.map(Some),
        }
    }

    /// Removes what earlier runs have left, when another one begins: an agent works on one at a time.
    pub(super) fn begin_run(&self, backup: BackupId, run: &str) -> io::Result<()> {
        match self.remove_others(backup, run) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn remove_others(&self, backup: BackupId, kept: &str) -> io::Result<()> {
        for name in names(&self.backup(backup))? {
            if is_run(&name) && name != kept {
                self.remove(&Path::new(&backup.to_string()).join(name))?;
            }
        }
        Ok(())
    }

    /// Removes a directory below this one, also one in which a file is made meanwhile.
    fn remove(&self, below: &Path) -> io::Result<()> {
        let (handle, mut tries) = (self.handle()?, 0);
        loop {
            match handle.remove(below) {
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && tries < TRIES => tries += 1,
                removed => return removed,
            }
        }
    }

    /// See [`super::Objects::sweep`].
    pub(super) fn sweep(&self) -> io::Result<Vec<Held>> {
        self.check()?;
        let mut backups = Vec::new();
        for name in names(&self.path)? {
            let path = self.path.join(&name);
            if let Ok(backup) = name.parse::<BackupId>() {
                backups.push(backup);
            } else if let Some(Ok(backup)) = name.strip_suffix(DELETED).map(str::parse::<BackupId>) {
                self.remove(Path::new(&backup.to_string()))?;
                remove_if_older(&path, SETTLED)?;
            } else if name.starts_with('.') {
                remove_if_older(&path, ABANDONED)?;
            }
        }
        let mut held = Vec::new();
        for backup in backups {
            match self.sweep_backup(backup) {
                Ok(found) => held.push(found),
                // It was deleted meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => tracing::error!("backup {backup} cannot be looked through: {error}"),
            }
        }
        Ok(held)
    }

    fn sweep_backup(&self, backup: BackupId) -> io::Result<Held> {
        if let Some(kept) = self.kept(backup)? {
            self.remove_others(backup, &kept)?;
        }
        let path = self.backup(backup);
        let (mut bytes, mut age) = (0, age(&std::fs::metadata(&path)?));
        for run in names(&path)?.into_iter().filter(|name| is_run(name)) {
            let run = path.join(run);
            for name in names(&run)? {
                let file = run.join(&name);
                let facts = match std::fs::metadata(&file) {
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    facts => facts?,
                };
                age = age.min(self::age(&facts));
                if is_object(&name) {
                    bytes += facts.len();
                } else {
                    remove_if_older(&file, ABANDONED)?;
                }
            }
        }
        Ok(Held { backup, bytes, age })
    }
}

/// An object that is being written. Dropped, it leaves nothing.
pub(super) struct New {
    directory: Directory,
    place: Place,
    beside: PathBuf,
}

impl New {
    /// Gives the written file its name, once it is on the disk.
    pub(super) fn complete(self, file: &File) -> Result<(), NotStored> {
        file.sync_all()?;
        failpoint::pass("objects.before_name").map_err(io::Error::other)?;
        let (directory, place) = (&self.directory, &self.place);
        let run = directory.run(place);
        let object = run.join(&place.name);
        // A link, since a rename would replace what is there, and not every file system has one that does not.
        std::fs::hard_link(&self.beside, &object).map_err(|error| directory.judge(place.backup, error))?;
        remove_file(&self.beside)?;
        if directory.is_closed(place.backup)? {
            remove_file(&object)?;
            // The last one that is taken away takes the directories with it.
            let _ = std::fs::remove_dir(&run);
            let _ = std::fs::remove_dir(directory.backup(place.backup));
            return Err(NotStored::Closed);
        }
        flush(&run)?;
        if place.name == MANIFEST_NAME {
            // What makes a backup of the run: the way to it has to last, too, whoever made the directories.
            flush(&directory.backup(place.backup))?;
            flush(&directory.path)?;
        }
        Ok(())
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if let Err(error) = remove_file(&self.beside) {
            tracing::warn!("{} is left, until it is swept: {error}", self.beside.display());
        }
    }
}

fn owners() -> [u32; 1] {
    [nix::unistd::geteuid().as_raw()]
}

/// The number in the file that names the directory, where there is one.
fn named(directory: &Path) -> io::Result<Option<i64>> {
    match std::fs::read_to_string(directory.join(STORAGE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => {
            let wrong = |_| io::Error::other(format!("the file {STORAGE:?} in {} has no number", directory.display()));
            read?.trim().parse().map(Some).map_err(wrong)
        }
    }
}

/// The number that names the directory; one is drawn where there is none, also where another controller does so.
fn first_named(directory: &Path) -> io::Result<i64> {
    if let Some(storage) = named(directory)? {
        return Ok(storage);
    }
    let drawn = rand::random_range(1..=i64::MAX).to_string();
    let beside = written_beside(directory, STORAGE, drawn.as_bytes())?;
    let linked = std::fs::hard_link(&beside, directory.join(STORAGE));
    remove_file(&beside)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => flush(directory)?,
    }
    named(directory)?.ok_or_else(|| ErrorKind::NotFound.into())
}

/// Writes a file that says something, in one step and for good; what is there is replaced.
fn say(directory: &Path, name: &str, contents: &[u8]) -> io::Result<()> {
    let beside = written_beside(directory, name, contents)?;
    if let Err(error) = std::fs::rename(&beside, directory.join(name)) {
        // Where it stays the sweep removes it.
        let _ = remove_file(&beside);
        return Err(error);
    }
    flush(directory)
}

/// A file that is whole and on the disk, and has another name than any that another controller writes there.
fn written_beside(directory: &Path, name: &str, contents: &[u8]) -> io::Result<PathBuf> {
    let beside = directory.join(format!(".{name}.{:016x}", rand::random::<u64>()));
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    if let Err(error) = file.write_all(contents).and_then(|()| file.sync_all()) {
        let _ = remove_file(&beside);
        return Err(error);
    }
    Ok(beside)
}

/// Makes a directory, or finds it made.
fn make_closed(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Sees to it that the names in a directory are on the disk.
fn flush(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let named = |entry: io::Result<std::fs::DirEntry>| entry.map(|entry| entry.file_name().into_string().ok());
    std::fs::read_dir(directory)?.filter_map(|entry| named(entry).transpose()).collect()
}

fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn remove_if_older(path: &Path, least: Duration) -> io::Result<()> {
    let facts = match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        facts => facts?,
    };
    if age(&facts) > least { remove_file(path) } else { Ok(()) }
}

/// Since when it was not changed. The clock may have been set back.
fn age(facts: &Metadata) -> Duration {
    let changed = facts.modified().ok();
    changed.and_then(|changed| SystemTime::now().duration_since(changed).ok()).unwrap_or_default()
}
