//! What the controllers of this machine tell each other for the packet filter, which is one for all of them: the range
//! of their engines' accounts, and the addresses that they listen on.
//!
//! Each has a file beside the reservations of accounts. It counts until its state directory is gone, also while the
//! controller does not run.

#![allow(clippy::disallowed_methods, reason = "the files lie in a directory of root's")]

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use trove_strategy::beneath;
use trove_strategy::process::if_there;

use crate::compute::disk::key;

/// Beginning of the files' names.
const PREFIX: &str = "service.";

/// What one controller tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Service {
    /// State directory of the controller.
    pub(super) state: PathBuf,
    /// First and last user id of its engines.
    pub(super) uids: (u32, u32),
    /// Addresses that it listens on.
    pub(super) listens: Vec<SocketAddr>,
}

impl Service {
    /// Writes the file, unless it says this already.
    pub(super) fn announce(&self, directory: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::other)?;
        let file = directory.join(format!("{PREFIX}{}", key(&self.state)));
        if if_there(fs::read(&file))?.is_some_and(|before| before == text) {
            return Ok(());
        }
        beneath::replace(&file, &text)
    }

    /// All that count. Files of those whose state directory is gone are removed.
    pub(super) fn all(directory: &Path) -> io::Result<Vec<Self>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
                continue;
            }
            let Some(text) = if_there(fs::read(entry.path()))? else { continue };
            let service: Self = serde_json::from_slice(&text)
                .map_err(|error| io::Error::other(format!("read {}: {error}", entry.path().display())))?;
            if service.state.try_exists()? {
                all.push(service);
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_counts_until_its_state_directory_is_gone() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("uids");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("70001"), "/a/host").unwrap();
        let service = |name: &str, last| {
            let state = scratch.path().join(name);
            fs::create_dir_all(&state).unwrap();
            Service { state, uids: (70000, last), listens: vec!["127.0.0.1:8779".parse().unwrap()] }
        };
        let (one, two) = (service("one", 70099), service("two", 79999));
        for told in [&one, &two, &two] {
            told.announce(&directory).unwrap();
        }
        let all = |expected: &[&Service]| {
            let found = Service::all(&directory).unwrap();
            assert!(found.len() == expected.len() && expected.iter().all(|it| found.contains(it)), "{found:?}");
        };
        all(&[&one, &two]);
        let wider = service("one", 80000);
        wider.announce(&directory).unwrap();
        all(&[&wider, &two]);
        fs::remove_dir(&two.state).unwrap();
        all(&[&wider]);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "its file is gone, too");
    }
}
