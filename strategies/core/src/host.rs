//! The hands of a strategy: commands and files. The agent has the real one; [`crate::recording`] keeps a list instead.

use std::path::Path;

use async_trait::async_trait;
use tokio::net::UnixStream;

use crate::command::{Command, Output, Signal};
use crate::error::HostError;
use crate::location::{Directory, Location, Owner};
use crate::stream::{InputStream, OutputStream};

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its bytes. Fewer than were asked for only where the file ends.
    pub bytes: Vec<u8>,
    /// The size of the whole file when it was read.
    pub size: u64,
}

/// A file to be written whole.
#[derive(Clone, Debug)]
pub struct File {
    /// Where.
    pub at: Location,
    /// What.
    pub contents: Vec<u8>,
    /// Permission bits, such as 0o640. What is the agent's in [`Directory::Config`] has the engine's group.
    pub mode: u32,
    /// Whose.
    pub owner: Owner,
}

impl File {
    /// A configuration file, by its name in [`Directory::Config`]: the engine reads it and cannot change it.
    pub fn config(name: &str, text: impl Into<Vec<u8>>) -> Self {
        Self { at: Directory::Config.join(name), contents: text.into(), mode: 0o640, owner: Owner::Agent }
    }
}

/// Commands and files. Every method may be repeated after a crash. Files are worked on below handles of the site's
/// directories: links are never followed, and what is neither the engine's nor the agent's, or has a second name, is not
/// touched. A tenant can put anything anywhere in the engine's own directories.
#[async_trait]
pub trait Host: Send + Sync {
    /// Runs a command to its end. Given up before, it is killed with its children.
    async fn run(&self, command: Command) -> Result<Output, HostError>;
    /// Starts a command whose output is read while it runs. The deadline counts from here.
    async fn read_from(&self, command: Command) -> Result<OutputStream, HostError>;
    /// Starts a command whose input is written while it runs; it has no other. The deadline counts from here.
    async fn write_to(&self, command: Command) -> Result<InputStream, HostError>;
    /// Whether there is a program at this path, which is one of the system's.
    async fn has_program(&self, path: &Path) -> Result<bool, HostError>;
    /// Makes a directory with its mode and owner, or gives them to the one that is there. What is above it is there.
    async fn make_directory(&self, at: &Location, mode: u32, owner: Owner) -> Result<(), HostError>;
    /// Replaces a file as one step: written beside, flushed, renamed, the directory flushed.
    async fn write(&self, file: File) -> Result<(), HostError>;
    /// The bytes of a file, or `None` when it is not there. One with more than `limit` bytes is an error.
    async fn read(&self, at: &Location, limit: u64) -> Result<Option<Vec<u8>>, HostError>;
    /// At most `limit` bytes of a file from `offset` on, or `None` when it is not there. Beyond the file's end there are none.
    async fn read_at(&self, at: &Location, offset: u64, limit: usize) -> Result<Option<Piece>, HostError>;
    /// Whether something is there.
    async fn exists(&self, at: &Location) -> Result<bool, HostError>;
    /// Renames within one of the directories and flushes it.
    async fn rename(&self, from: &Location, to: &Location) -> Result<(), HostError>;
    /// Removes a file or a whole directory; what is not there counts as removed.
    async fn remove(&self, at: &Location) -> Result<(), HostError>;
    /// Connects to a socket. The process that listens is the engine of this site, or a command that runs at this
    /// moment: this is verified before anything can be said to it.
    async fn connect(&self, at: &Location) -> Result<UnixStream, HostError> {
        self.connect_as(at, Owner::Agent).await
    }
    /// The same with the credentials of an account, for engines that let in whoever has the name of the account that the
    /// system vouches for.
    async fn connect_as(&self, at: &Location, owner: Owner) -> Result<UnixStream, HostError>;
    /// Signals the engine's process, the one that the agent started. To stop it is the agent's work.
    async fn signal(&self, signal: Signal) -> Result<(), HostError>;
}
