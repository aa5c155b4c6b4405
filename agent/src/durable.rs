//! The agent's small state files: replaced atomically, mode 0600.

#![allow(clippy::disallowed_methods, reason = "directories of the agent alone, 0700")]

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;
use trove_strategy::beneath;

/// Greatest length of a file that is read. The agent writes none this long.
const MOST_BYTES: u64 = 16 << 20;

/// A directory of state files. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Durable {
    directory: PathBuf,
}

impl Durable {
    /// Opens the directory, and makes it with mode 0700 when it is absent.
    pub fn open(directory: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.with_context(|| format!("make {}", directory.display()))?;
        Ok(Self { directory: directory.to_owned() })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Replaces a file atomically: writes a temporary file, flushes it, renames it, and flushes the directory.
    ///
    /// # Errors
    /// The file could not be written; a full disk is named as such. The previous contents are untouched.
    pub fn write(&self, name: &str, contents: &[u8]) -> Result<()> {
        let path = self.path(name);
        beneath::replace(&path, contents).with_context(|| format!("write {}", path.display()))
    }

    /// The contents of a file, or `None` when it is absent. A file of more than 16 MiB is an error.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let read = || {
            let mut contents = Vec::new();
            std::fs::File::open(self.path(name))?.take(MOST_BYTES + 1).read_to_end(&mut contents)?;
            let is_whole = contents.len() as u64 <= MOST_BYTES;
            if is_whole { Ok(contents) } else { Err(io::Error::other(format!("it has more than {MOST_BYTES} bytes"))) }
        };
        match read() {
            Ok(contents) => Ok(Some(contents)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", self.path(name).display())),
        }
    }

    /// When a file was last written.
    pub fn written_at(&self, name: &str) -> Result<SystemTime> {
        let path = self.path(name);
        let at = std::fs::metadata(&path).and_then(|facts| facts.modified());
        at.with_context(|| format!("look at {}", path.display()))
    }

    /// Writes a value as JSON.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        self.write(name, &serde_json::to_vec(value)?)
    }

    /// Reads a JSON value. A damaged file is set aside and counts as absent.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        self.read_whole(name, |contents| serde_json::from_slice(contents).context("parse it as JSON"))
    }

    /// Reads a file with `parse`. A file that it rejects is renamed to `<name>.damaged`, for later inspection, and
    /// counts as absent: if the agent refused to start, nothing would manage its engine.
    pub fn read_whole<T>(&self, name: &str, parse: impl FnOnce(&[u8]) -> Result<T>) -> Result<Option<T>> {
        let Some(contents) = self.read(name)? else { return Ok(None) };
        match parse(&contents) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let (path, aside) = (self.path(name), self.aside(name));
                warn!(file = %path.display(), error = format!("{error:#}"), "a damaged file is set aside");
                std::fs::rename(&path, &aside).with_context(|| format!("set {} aside", path.display()))?;
                Ok(None)
            }
        }
    }

    /// Whether a file of this name was ever damaged and set aside.
    pub fn was_set_aside(&self, name: &str) -> bool {
        self.aside(name).exists()
    }

    fn aside(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.damaged"))
    }

    /// Removes a file. An absent file is no error.
    pub fn remove(&self, name: &str) -> Result<()> {
        match std::fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.path(name).display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_off_is_set_aside_and_counts_as_absent() {
        let scratch = tempfile::tempdir().unwrap();
        let files = Durable::open(scratch.path()).unwrap();
        let value = vec!["a".to_owned(), "b".to_owned()];
        files.write_json("list", &value).unwrap();
        let whole = files.read("list").unwrap().unwrap();
        assert!(!files.was_set_aside("list"));
        for length in 0..whole.len() {
            std::fs::write(files.path("list"), &whole[..length]).unwrap();
            assert_eq!(files.read_json::<Vec<String>>("list").unwrap(), None, "{length}");
            assert_eq!(std::fs::read(files.path("list.damaged")).unwrap(), &whole[..length], "it can be looked at");
            assert!(files.was_set_aside("list") && files.read("list").unwrap().is_none());
        }
        files.write_json("list", &value).unwrap();
        assert_eq!(files.read_json("list").unwrap(), Some(value));
    }
}
