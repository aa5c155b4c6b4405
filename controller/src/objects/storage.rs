//! Where objects lie: in a directory that this program serves, or in a storage that agents reach by themselves. What both do is said
//! at [`super::Objects`].

use std::io;

use tokio::io::AsyncReadExt as _;

use super::directory::{Directory, Held, Place};
use super::remote::Remote;
use crate::ids::BackupId;

/// The storage of all backups. Cheap to clone.
#[derive(Clone)]
pub(super) enum Storage {
    Directory(Directory),
    Remote(Remote),
}

/// Works on the directory on a thread where that may block.
async fn blocking<T: Send + 'static>(
    directory: &Directory,
    work: impl FnOnce(&Directory) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let directory = directory.clone();
    tokio::task::spawn_blocking(move || work(&directory)).await.map_err(io::Error::other)?
}

impl Storage {
    /// The directory, if it is one.
    pub(super) fn directory(&self) -> Option<&Directory> {
        match self {
            Self::Directory(directory) => Some(directory),
            Self::Remote(_) => None,
        }
    }

    /// The number that names it.
    pub(super) fn number(&self) -> i64 {
        match self {
            Self::Directory(directory) => directory.storage(),
            Self::Remote(remote) => remote.number(),
        }
    }

    /// Whether it is the one that was opened first.
    pub(super) async fn check(&self) -> io::Result<()> {
        match self {
            Self::Directory(directory) => blocking(directory, Directory::check).await,
            Self::Remote(remote) => remote.check().await,
        }
    }

    /// Whether nothing of the backup may be written any more.
    pub(super) async fn is_closed(&self, backup: BackupId) -> io::Result<bool> {
        match self {
            Self::Directory(directory) => blocking(directory, move |directory| directory.is_closed(backup)).await,
            Self::Remote(remote) => remote.is_closed(backup).await,
        }
    }

    /// Removes what earlier runs have left, when another one begins: an agent works on one at a time.
    pub(super) async fn begin_run(&self, backup: BackupId, run: String) -> io::Result<()> {
        match self {
            Self::Directory(directory) => blocking(directory, move |directory| directory.begin_run(backup, &run)).await,
            Self::Remote(remote) => remote.remove_others(backup, &run).await,
        }
    }

    /// Removes every run of the backup but this one, and sees to it that nothing of it is written any more.
    pub(super) async fn keep_only(&self, backup: BackupId, run: String) -> io::Result<()> {
        match self {
            Self::Directory(directory) => blocking(directory, move |directory| directory.keep_only(backup, &run)).await,
            Self::Remote(remote) => remote.keep_only(backup, &run).await,
        }
    }

    /// Removes the backup, and sees to it that nothing of it is written any more.
    pub(super) async fn delete(&self, backup: BackupId) -> io::Result<()> {
        match self {
            Self::Directory(directory) => blocking(directory, move |directory| directory.delete(backup)).await,
            Self::Remote(remote) => remote.delete(backup).await,
        }
    }

    /// See [`super::Objects::sweep`].
    pub(super) async fn sweep(&self) -> io::Result<Vec<Held>> {
        match self {
            Self::Directory(directory) => blocking(directory, Directory::sweep).await,
            Self::Remote(remote) => remote.sweep().await,
        }
    }

    /// Opens an object; `None` if it is not there.
    pub(super) async fn open(&self, place: Place) -> io::Result<Option<Opened>> {
        match self {
            Self::Directory(directory) => {
                let opened = blocking(directory, move |directory| directory.read(&place)).await?;
                Ok(opened.map(|(file, bytes)| Opened { bytes, source: Source::File(file) }))
            }
            Self::Remote(remote) => {
                let opened = remote.open_object(&place).await?;
                Ok(opened.map(|(bytes, answer)| Opened { bytes, source: Source::Answer(answer) }))
            }
        }
    }
}

/// An object that is being read.
pub(super) struct Opened {
    /// Its size.
    pub(super) bytes: u64,
    source: Source,
}

enum Source {
    File(std::fs::File),
    Answer(reqwest::Response),
}

impl Opened {
    /// The whole object, of which the caller knows that it is not large.
    pub(super) async fn text(self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        match self.source {
            Source::File(file) => {
                tokio::fs::File::from_std(file).take(self.bytes).read_to_end(&mut text).await?;
            }
            Source::Answer(mut answer) => {
                while let Some(piece) = answer.chunk().await.map_err(broken)? {
                    text.extend_from_slice(&piece);
                }
            }
        }
        Ok(text)
    }

    /// The BLAKE3 sum of the object, of which no more than a piece is in memory at a time.
    pub(super) async fn sum(self) -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        match self.source {
            Source::File(file) => {
                let work = move || {
                    // It reads by pieces of 64 KiB.
                    hasher.update_reader(io::Read::take(file, self.bytes)).map(|hasher| hasher.finalize())
                };
                tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
            }
            Source::Answer(mut answer) => {
                while let Some(piece) = answer.chunk().await.map_err(broken)? {
                    hasher.update(&piece);
                }
                Ok(hasher.finalize())
            }
        }
    }
}

/// An answer that broke off; its address is a secret.
fn broken(error: reqwest::Error) -> io::Error {
    io::Error::other(format!("the answer broke off: {}", crate::error::chain(&error.without_url())))
}
