//! A [`Host`] that does nothing and keeps a list: for tests of install and configure without root.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::net::UnixStream;

use crate::host::{Command, File, Host, HostError, Location, Output, Owner, Signal};

/// Keeps what it was asked to do, one line an action, and the files that were written.
#[derive(Default)]
pub struct RecordingHost {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    actions: Vec<String>,
    files: BTreeMap<Location, Vec<u8>>,
}

impl RecordingHost {
    /// What was asked, in order, such as `run initdb -D …` or
    /// `write x in the configuration directory 0640`.
    pub fn actions(&self) -> Vec<String> {
        self.lock().actions.clone()
    }

    /// The text of a file that was written.
    pub fn text(&self, at: &Location) -> Option<String> {
        self.lock().files.get(at).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
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

    async fn has_program(&self, _path: &Path) -> Result<bool, HostError> {
        Ok(true)
    }

    async fn make_directory(&self, at: &Location, mode: u32, _owner: Owner) -> Result<(), HostError> {
        let mut state = self.lock();
        state.actions.push(format!("directory {at} {mode:04o}"));
        state.files.insert(at.clone(), Vec::new());
        Ok(())
    }

    async fn write(&self, file: File) -> Result<(), HostError> {
        let mut state = self.lock();
        state.actions.push(format!("write {} {:04o}", file.at, file.mode));
        state.files.insert(file.at, file.contents);
        Ok(())
    }

    async fn read(&self, at: &Location, _limit: u64) -> Result<Option<Vec<u8>>, HostError> {
        Ok(self.lock().files.get(at).cloned())
    }

    async fn exists(&self, at: &Location) -> Result<bool, HostError> {
        Ok(self.lock().files.keys().any(|known| is_in(known, at)))
    }

    async fn rename(&self, from: &Location, to: &Location) -> Result<(), HostError> {
        let mut state = self.lock();
        state.actions.push(format!("rename {from} to {to}"));
        let moved: Vec<Location> = state.files.keys().filter(|known| is_in(known, from)).cloned().collect();
        for known in moved {
            let (Some(bytes), Ok(rest)) = (state.files.remove(&known), known.path.strip_prefix(&from.path)) else {
                continue;
            };
            state.files.insert(to.directory.join(to.path.join(rest)), bytes);
        }
        Ok(())
    }

    async fn remove(&self, at: &Location) -> Result<(), HostError> {
        let mut state = self.lock();
        state.actions.push(format!("remove {at}"));
        state.files.retain(|known, _| !is_in(known, at));
        Ok(())
    }

    async fn connect(&self, at: &Location) -> Result<UnixStream, HostError> {
        Err(HostError::Connect { at: at.clone(), reason: "nothing runs here".to_owned() })
    }

    async fn signal(&self, signal: Signal) -> Result<(), HostError> {
        self.lock().actions.push(format!("signal {signal:?}"));
        Ok(())
    }
}

/// Whether it is this place or one below it.
fn is_in(known: &Location, at: &Location) -> bool {
    known.directory == at.directory && known.path.starts_with(&at.path)
}
