//! A [`Host`] that does nothing and keeps a list: for tests of install and configure without root.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Cursor};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use tokio::io::AsyncWrite;
use tokio::net::UnixStream;

use crate::command::{Command, Output, Signal};
use crate::error::HostError;
use crate::host::{File, Host, Piece};
use crate::location::{Location, Owner};
use crate::stream::{InputStream, OutputStream};

/// Keeps what it was asked to do, one line an action, and the files that were written.
#[derive(Default)]
pub struct RecordingHost {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    actions: Vec<String>,
    files: BTreeMap<Location, Vec<u8>>,
    /// What the next commands with a stream come to.
    planned: VecDeque<(Vec<u8>, Result<Output, HostError>)>,
    received: Vec<u8>,
}

/// Keeps what is written to a command.
struct Receiver(Arc<Mutex<State>>);

impl AsyncWrite for Receiver {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).received.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
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

    /// What the next command with a stream comes to in the end, and writes before where its output is read. Without a plan
    /// it writes nothing and succeeds.
    pub fn plan(&self, output: impl Into<Vec<u8>>, end: Result<Output, HostError>) {
        self.lock().planned.push_back((output.into(), end));
    }

    /// Everything that was written to the input of commands.
    pub fn received(&self) -> Vec<u8> {
        self.lock().received.clone()
    }

    fn record_command(&self, verb: &str, command: &Command) {
        let mut line = format!("{verb} {}", command.program.display());
        for arg in &command.args {
            line.push(' ');
            line.push_str(arg);
        }
        self.lock().actions.push(line);
    }

    fn next_plan(&self) -> (Vec<u8>, Result<Output, HostError>) {
        self.lock().planned.pop_front().unwrap_or_else(|| (Vec::new(), Ok(Output::default())))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Host for RecordingHost {
    async fn run(&self, command: Command) -> Result<Output, HostError> {
        self.record_command("run", &command);
        Ok(Output::default())
    }

    async fn read_from(&self, command: Command) -> Result<OutputStream, HostError> {
        self.record_command("read from", &command);
        let (output, end) = self.next_plan();
        let end = |closed| async {
            closed.await;
            end
        };
        Ok(OutputStream::new(Cursor::new(output), end))
    }

    async fn write_to(&self, command: Command) -> Result<InputStream, HostError> {
        self.record_command("write to", &command);
        let (_, end) = self.next_plan();
        let end = |closed| async {
            closed.await;
            end
        };
        Ok(InputStream::new(Receiver(self.state.clone()), end))
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

    async fn read_at(&self, at: &Location, offset: u64, limit: usize) -> Result<Option<Piece>, HostError> {
        let piece = |bytes: &Vec<u8>| {
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let bytes_there = bytes.iter().skip(from).take(limit).copied().collect();
            Piece { bytes: bytes_there, size: bytes.len() as u64 }
        };
        Ok(self.lock().files.get(at).map(piece))
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

    async fn connect_as(&self, at: &Location, _owner: Owner) -> Result<UnixStream, HostError> {
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
