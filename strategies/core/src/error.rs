//! The one error of a strategy, and the kind on which every retry decision is made.

use crate::host::HostError;

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

impl From<HostError> for EngineError {
    fn from(error: HostError) -> Self {
        let kind = if error.is_transient() { Kind::Transient } else { Kind::Fatal };
        Self { kind, attempt: error.to_string(), source: None }
    }
}
