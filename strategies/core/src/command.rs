//! Commands that a strategy has run, and signals to the engine.

use std::path::PathBuf;
use std::time::Duration;

use crate::location::Owner;

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
