//! What a step comes to.

use trove_proto::v1;

use crate::agents::AgentError;
use crate::compute::ComputeError;
use crate::error::{Error, chain};
use crate::objects::CheckError;

/// What a step came to, when it did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The outcome is unknown, or nothing was done: ask again, under the same key, until the deadline.
    #[error("{0}")]
    RetrySameKey(String),
    /// A failure that is recorded under the key and may pass: do it anew, as the next attempt, until the deadline.
    #[error("{0}")]
    RetryNextAttempt(String),
    /// Asking again changes nothing.
    #[error("{0}")]
    Fatal(String),
    /// Another controller has the operation: stop without writing.
    #[error("the lease is lost")]
    Fenced,
}

impl From<Error> for StepError {
    fn from(error: Error) -> Self {
        Self::RetrySameKey(chain(&error))
    }
}

impl From<ComputeError> for StepError {
    fn from(error: ComputeError) -> Self {
        match error {
            ComputeError::Transient(message) => Self::RetrySameKey(message),
            ComputeError::Fatal(message) => Self::Fatal(message),
            ComputeError::Fenced { .. } => Self::Fenced,
        }
    }
}

impl From<AgentError> for StepError {
    fn from(error: AgentError) -> Self {
        let text = error.to_string();
        let AgentError::Refused { kind, .. } = error else { return Self::RetrySameKey(text) };
        match kind {
            v1::ErrorKind::Interrupted => Self::RetrySameKey(text),
            v1::ErrorKind::Busy | v1::ErrorKind::Transient | v1::ErrorKind::Cancelled => Self::RetryNextAttempt(text),
            v1::ErrorKind::Fenced => Self::Fenced,
            v1::ErrorKind::Unspecified | v1::ErrorKind::Invalid | v1::ErrorKind::Gone | v1::ErrorKind::Fatal => {
                Self::Fatal(text)
            }
        }
    }
}

impl From<CheckError> for StepError {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Damaged(what) => Self::Fatal(what),
            CheckError::Unavailable(what) => Self::RetrySameKey(what),
        }
    }
}

/// What a step returns.
pub type StepResult<T = ()> = std::result::Result<T, StepError>;
