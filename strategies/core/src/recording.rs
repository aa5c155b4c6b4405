//! A [`Host`] that does nothing and keeps a list: for tests of install and configure without root.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::host::{Command, File, Host, HostError, Output, Owner};

/// Keeps what it was asked to do, one line an action, and the files that were written.
#[derive(Default)]
pub struct RecordingHost {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    actions: Vec<String>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl RecordingHost {
    /// What was asked, in order, such as `run initdb -D …` or `write /x/y 0600`.
    pub fn actions(&self) -> Vec<String> {
        self.lock().actions.clone()
    }

    /// The text of a file that was written.
    pub fn text(&self, path: &Path) -> Option<String> {
        self.lock().files.get(path).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Host for RecordingHost {
    async fn run(&self, command: Command) -> Result<Output, HostError> {
        let mut line = format!("run {}", command.program.display());
        for arg in &command.args {
            line.push(' ');
            line.push_str(arg);
        }
        self.lock().actions.push(line);
        Ok(Output::default())
    }

    async fn ensure_directory(&self, path: &Path, mode: u32, _owner: Owner) -> Result<(), HostError> {
        let mut state = self.lock();
        state.actions.push(format!("directory {} {mode:04o}", path.display()));
        state.files.insert(path.to_owned(), Vec::new());
        Ok(())
    }

    async fn write(&self, file: File) -> Result<(), HostError> {
        let mut state = self.lock();
        state.actions.push(format!("write {} {:04o}", file.path.display(), file.mode));
        state.files.insert(file.path, file.contents);
        Ok(())
    }

    async fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, HostError> {
        Ok(self.lock().files.get(path).cloned())
    }

    async fn exists(&self, path: &Path) -> Result<bool, HostError> {
        Ok(self.lock().files.keys().any(|known| known.starts_with(path)))
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), HostError> {
        let mut state = self.lock();
        state.actions.push(format!("rename {} {}", from.display(), to.display()));
        let moved: Vec<PathBuf> = state.files.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in moved {
            let (Some(bytes), Ok(rest)) = (state.files.remove(&path), path.strip_prefix(from)) else { continue };
            state.files.insert(to.join(rest), bytes);
        }
        Ok(())
    }

    async fn remove(&self, path: &Path) -> Result<(), HostError> {
        let mut state = self.lock();
        state.actions.push(format!("remove {}", path.display()));
        state.files.retain(|known, _| !known.starts_with(path));
        Ok(())
    }
}
