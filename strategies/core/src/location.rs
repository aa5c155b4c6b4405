//! Places in the directories of a site, and whose what lies there is.

use std::fmt;
use std::path::PathBuf;

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
