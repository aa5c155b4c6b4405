//! Small files of the agent's own, replaced as one step, 0600.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The directory of such files. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Durable {
    directory: PathBuf,
}

impl Durable {
    /// In this directory, which is made 0700 when absent.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(directory: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.with_context(|| format!("make {}", directory.display()))?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// The path of a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes a file: beside, flushed, renamed, the directory flushed.
    ///
    /// # Errors
    /// The system refused; a full disk is named as such. What was there before is untouched.
    pub fn write(&self, name: &str, contents: &[u8]) -> Result<()> {
        let (path, beside) = (self.path(name), self.path(&format!(".{name}.new")));
        let write = || -> io::Result<()> {
            let mut options = std::fs::File::options();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(contents)?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)?;
            std::fs::File::open(&self.directory)?.sync_all()
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    /// The contents of a file, or `None` when it is not there.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match std::fs::read(self.path(name)) {
            Ok(contents) => Ok(Some(contents)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", self.path(name).display())),
        }
    }

    /// Writes a value as JSON.
    ///
    /// # Errors
    /// As [`Durable::write`].
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        self.write(name, &serde_json::to_vec(value)?)
    }

    /// A value that was written as JSON.
    ///
    /// # Errors
    /// It cannot be read or is damaged.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(contents) = self.read(name)? else { return Ok(None) };
        serde_json::from_slice(&contents).map(Some).with_context(|| format!("parse {}", self.path(name).display()))
    }

    /// Removes a file; one that is not there counts as removed.
    ///
    /// # Errors
    /// The system refused.
    pub fn remove(&self, name: &str) -> Result<()> {
        match std::fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.path(name).display()))
            }
            _ => Ok(()),
        }
    }
}
