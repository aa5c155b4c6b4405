//! The hands of a strategy: commands and files. The agent has the real one; [`crate::recording`] keeps a list instead.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

/// Whose a process or a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The unprivileged account that runs the engine.
    Engine,
    /// The account of the agent itself.
    Agent,
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
    /// Standard output, at most 1 MiB of it.
    pub stdout: String,
    /// Standard error, at most 64 KiB of its end.
    pub stderr: String,
}

/// A file to be written whole.
#[derive(Clone, Debug)]
pub struct File {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub contents: Vec<u8>,
    /// Permission bits, such as 0o600.
    pub mode: u32,
    /// Whose.
    pub owner: Owner,
}

/// What the hands could not do.
#[derive(Debug, thiserror::Error)]
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
    /// A file or directory could not be read or written.
    #[error("{attempt} {path}: {reason}")]
    File {
        /// A verb: `write`, `read`, `make directory`, `rename`, `remove`.
        attempt: &'static str,
        /// The path.
        path: String,
        /// What the system said.
        reason: String,
    },
}

impl HostError {
    /// Whether the same call may work a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Late { .. })
    }
}

/// Commands and files. Every method may be repeated after a crash.
#[async_trait]
pub trait Host: Send + Sync {
    /// Runs a command to its end.
    async fn run(&self, command: Command) -> Result<Output, HostError>;
    /// Makes a directory with its mode and owner, or gives them to the one that is there.
    async fn ensure_directory(&self, path: &Path, mode: u32, owner: Owner) -> Result<(), HostError>;
    /// Replaces a file as one step: written beside, flushed, renamed, the directory flushed.
    async fn write(&self, file: File) -> Result<(), HostError>;
    /// The bytes of a file, or `None` when it is not there.
    async fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, HostError>;
    /// Whether something is there.
    async fn exists(&self, path: &Path) -> Result<bool, HostError>;
    /// Renames within one file system and flushes the directory.
    async fn rename(&self, from: &Path, to: &Path) -> Result<(), HostError>;
    /// Removes a file or a whole directory; what is not there counts as removed.
    async fn remove(&self, path: &Path) -> Result<(), HostError>;
}
