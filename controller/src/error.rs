//! The error type of the controller. Each variant is a fault of Trove's API; `api/http/fault.rs` makes responses of
//! them.

/// An error. Messages are for the user: one sentence that names the field or resource, without secrets. The context of
/// an internal error is for the log only.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 400 `badRequest`.
    #[error("{0}")]
    BadRequest(String),
    /// 401 `unauthorized`.
    #[error("{0}")]
    Unauthorized(String),
    /// 403 `forbidden`.
    #[error("{0}")]
    Forbidden(String),
    /// 404 `itemNotFound`.
    #[error("{0}")]
    NotFound(String),
    /// 409 `conflict`.
    #[error("{0}")]
    Conflict(String),
    /// 413 `overLimit`.
    #[error("{message}")]
    OverLimit {
        message: String,
        /// `Retry-After`, seconds, for rate limits.
        retry_after_s: Option<u64>,
    },
    /// 415 `badMediaType`.
    #[error("{0}")]
    BadMediaType(String),
    /// 422 `unprocessableEntity`.
    #[error("{0}")]
    Unprocessable(String),
    /// 503 `serviceUnavailable`: a dependency is unavailable, or there are too many requests at once.
    #[error("{message}")]
    Unavailable {
        message: String,
        /// `Retry-After`, seconds.
        retry_after_s: u64,
    },
    /// 501 `notImplemented`.
    #[error("{0}")]
    NotImplemented(String),
    /// 500 `instanceFault`. The message contains an id that is also in the log.
    #[error("{attempt}")]
    Internal {
        /// What was attempted, a verb phrase.
        attempt: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl Error {
    /// Makes an internal error.
    pub fn internal(attempt: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal { attempt: attempt.into(), source: Some(source.into()) }
    }

    /// `Retry-After`, seconds, if known.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::OverLimit { retry_after_s, .. } => *retry_after_s,
            Self::Unavailable { retry_after_s, .. } => Some(*retry_after_s),
            _ => None,
        }
    }
}

/// The text of an error and all its sources, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

pub type Result<T> = std::result::Result<T, Error>;
