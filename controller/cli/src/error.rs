//! What a person is told when it did not work, and the exit code.

use std::process::ExitCode;

/// One sentence that says what was tried, why it failed, and what to do next. The kinds are the exit codes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// 1.
    #[error("{0}")]
    Failed(String),
    /// 2: as clap's own.
    #[error("{0}")]
    Usage(String),
    /// 3.
    #[error("{0}")]
    NotFound(String),
    /// 4: what was asked for goes on.
    #[error("{0}")]
    Late(String),
    /// 1, without a word: whoever read standard output has seen enough, as `head` does.
    #[error("")]
    Closed,
}

impl Failure {
    /// It failed.
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// The program's exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) | Self::Closed => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Late(_) => 4,
        })
    }
}

/// The result of this program.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// The reason of an error of the HTTP library, without the address, which the sentence has already.
pub(crate) fn plain(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
