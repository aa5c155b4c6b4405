//! The one error of a strategy, the kind on which every retry decision is made, and the error of its hands.

use crate::location::Location;

/// What is to be done about an error. Decisions are made on this, never on a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The caller asked for something that the engine does not allow; asking again changes nothing.
    Invalid,
    /// The engine works on something that excludes this; it can be asked again later.
    Busy,
    /// The engine could not be asked, or lost the question; it is to be asked again.
    Transient,
    /// The thing that was asked about is not there.
    Gone,
    /// The engine does not let the agent in as its own account, or not with all its rights: [`crate::Engine::repair`]
    /// may mend that.
    LockedOut,
    /// A person is needed: asking again cannot help.
    Fatal,
}

/// What was attempted, and why it did not work. The text never holds a secret or a statement with data.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}")]
pub struct EngineError {
    kind: Kind,
    attempt: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl EngineError {
    /// An error without a deeper cause. `attempt` is a phrase such as `create database "x": the name is reserved`.
    pub fn new(kind: Kind, attempt: impl Into<String>) -> Self {
        Self { kind, attempt: attempt.into(), source: None }
    }

    /// An error with the cause that a lower layer gave; `attempt` must not repeat the cause's text.
    pub fn caused(
        kind: Kind,
        attempt: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, attempt: attempt.into(), source: Some(source.into()) }
    }

    /// What is to be done about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The text with all its causes, for one line of a log or a fault.
    pub fn chain(&self) -> String {
        let mut text = self.attempt.clone();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
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
    /// The program was killed (SIGKILL): by a person, or since memory was short. It has not failed by itself.
    #[error("{program} was killed: {stderr}")]
    Killed {
        /// The program.
        program: String,
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
        matches!(self, Self::Late { .. } | Self::Killed { .. } | Self::Signal { .. } | Self::Connect { .. })
    }
}

impl From<HostError> for EngineError {
    fn from(error: HostError) -> Self {
        let kind = if error.is_transient() { Kind::Transient } else { Kind::Fatal };
        Self { kind, attempt: error.to_string(), source: None }
    }
}
