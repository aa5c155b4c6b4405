//! The hands of a strategy: commands and files. The agent has the real one; [`crate::recording`] keeps a list instead.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::UnixStream;

use crate::stream::{InputStream, OutputStream};

/// The directories of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Directory {
    /// The volume's, for one major version: the data directory is `Directory::Data.join("data")`. The engine's account
    /// owns it.
    Data,
    /// Configuration and certificates. The agent owns it; the engine's account can read what has the group's bit.
    Config,
    /// Sockets and pid files. The engine's account owns it.
    Run,
    /// The engine's output. The agent owns it.
    Log,
    /// Passwords of the agent's own account. The agent owns it and nobody else reads it.
    Secrets,
}

impl Directory {
    /// A place in it. The path consists of plain names: whatever is done with another one is refused.
    pub fn join(self, path: impl Into<PathBuf>) -> Location {
        Location { directory: self, path: path.into() }
    }
}

/// A place in one of the directories.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// Which of them.
    pub directory: Directory,
    /// Where in it.
    pub path: PathBuf,
}

impl fmt::Display for Location {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = match self.directory {
            Directory::Data => "data",
            Directory::Config => "configuration",
            Directory::Run => "run",
            Directory::Log => "log",
            Directory::Secrets => "secrets",
        };
        write!(out, "{} in the {directory} directory", self.path.display())
    }
}

/// Whose a process or a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The unprivileged account that runs the engine.
    Engine,
    /// The account of the agent itself.
    Agent,
}

/// A signal that an engine understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// SIGHUP.
    Hangup,
    /// SIGINT.
    Interrupt,
    /// SIGQUIT.
    Quit,
    /// SIGTERM.
    Terminate,
    /// SIGUSR1.
    User1,
    /// SIGUSR2.
    User2,
}

/// A command that ends by itself. An argv array, never a shell string; no secret in it.
#[derive(Clone, Debug)]
pub struct Command {
    /// The program's whole path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// The environment, whole: nothing is inherited but `PATH` and `LANG=C.UTF-8`.
    pub env: Vec<(String, String)>,
    /// Whose process it is.
    pub user: Owner,
    /// What it reads from standard input: the way to hand over a secret.
    pub stdin: Option<secrecy::SecretString>,
    /// It is killed, with its children, when it takes longer.
    pub deadline: Duration,
}

impl Command {
    /// A command of the engine's account with a deadline of 60 seconds.
    pub fn engine(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            user: Owner::Engine,
            stdin: None,
            deadline: Duration::from_secs(60),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Sets standard input.
    #[must_use]
    pub fn stdin(mut self, text: secrecy::SecretString) -> Self {
        self.stdin = Some(text);
        self
    }

    /// Sets the deadline.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

/// What a command that ended with status 0 said.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Standard output, at most 1 MiB: more is an error.
    pub stdout: String,
    /// Standard error, at most 64 KiB of its end.
    pub stderr: String,
}

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

/// What the hands could not do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HostError {
    /// The program could not be started at all.
    #[error("start {program}: {reason}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        reason: String,
    },
    /// The program ended with another status than 0.
    #[error("{program} ended with {status}: {stderr}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit status or signal.
        status: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// The program took longer than its deadline and was killed.
    #[error("{program} did not end within {seconds} s")]
    Late {
        /// The program.
        program: String,
        /// The deadline.
        seconds: u64,
    },
    /// The program said more than is kept of its output.
    #[error("{program} said more than {limit} bytes")]
    TooMuch {
        /// The program.
        program: String,
        /// Bytes that are kept.
        limit: usize,
    },
    /// A file or directory could not be read or written.
    #[error("{attempt} {at}: {reason}")]
    File {
        /// A verb: `write`, `read`, `make the directory`, `rename`, `remove`.
        attempt: &'static str,
        /// Where.
        at: Location,
        /// What the system said, or why it was refused.
        reason: String,
    },
    /// The engine does not run, or could not be signalled.
    #[error("signal the engine: {reason}")]
    Signal {
        /// What the system said.
        reason: String,
    },
    /// Nobody listens at a socket, or somebody else than the engine does.
    #[error("connect to {at}: {reason}")]
    Connect {
        /// The socket.
        at: Location,
        /// What the system said, or who listens.
        reason: String,
    },
}

impl HostError {
    /// Whether the same call may work a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Late { .. } | Self::Signal { .. } | Self::Connect { .. })
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
