//! The one error of the controller. A variant is a fault of Trove's API; `api/http/fault.rs` alone turns it into a response.

/// What went wrong, in the words of the API. Messages are for the user: one sentence that names the field or the thing,
/// without secrets. The context of an internal error is for the log only.
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
        /// Seconds after which it may work, for rate limits.
        retry_after_s: Option<u64>,
    },
    /// 415 `badMediaType`.
    #[error("{0}")]
    BadMediaType(String),
    /// 422 `unprocessableEntity`.
    #[error("{0}")]
    Unprocessable(String),
    /// 503 `serviceUnavailable`: something that is needed is not there, or too much is asked at once.
    #[error("{message}")]
    Unavailable {
        message: String,
        /// Seconds after which it may work.
        retry_after_s: u64,
    },
    /// 501 `notImplemented`.
    #[error("{0}")]
    NotImplemented(String),
    /// 500 `instanceFault`: the message carries an id that the log has too.
    #[error("{attempt}")]
    Internal {
        /// What was attempted.
        attempt: String,
        /// Why it failed.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl Error {
    /// An unexpected failure with its cause.
    pub fn internal(attempt: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal { attempt: attempt.into(), source: Some(source.into()) }
    }

    /// Seconds after which asking again may help, where that is known.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::OverLimit { retry_after_s, .. } => *retry_after_s,
            Self::Unavailable { retry_after_s, .. } => Some(*retry_after_s),
            _ => None,
        }
    }
}

/// The text of an error with all its causes, for one line of a log.
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

/// The controller's result.
pub type Result<T> = std::result::Result<T, Error>;
