//! The Docker Engine: the connection to its socket, and what its errors mean.

use std::path::Path;

use bollard::errors::Error as DockerError;
use bollard::{API_DEFAULT_VERSION, Docker};

use crate::compute::ComputeError;
use crate::error::{Error, Result};

/// Time limit of one request. The import of an image and an orderly stop take long.
pub(super) const LIMIT_S: u64 = 600;

/// Connects.
///
/// # Errors
/// 400: it does not answer.
pub(super) async fn connect(socket: &Path) -> Result<Docker> {
    let unreached =
        |error: DockerError| Error::BadRequest(format!("docker.socket {} does not answer: {error}.", socket.display()));
    let docker =
        Docker::connect_with_unix(&socket.to_string_lossy(), LIMIT_S, API_DEFAULT_VERSION).map_err(unreached)?;
    // An older engine refuses requests of a newer version.
    docker.negotiate_version().await.map_err(unreached)
}

/// What a failed request means. The engine says 4xx where a repetition would fail, too.
pub(super) fn failed(attempt: &str) -> impl FnOnce(DockerError) -> ComputeError {
    let text = format!("docker: {attempt}");
    move |error| match error {
        DockerError::DockerResponseServerError { status_code: 400, message } => {
            ComputeError::Fatal(format!("{text}: {message}"))
        }
        error => ComputeError::Transient(format!("{text}: {error}")),
    }
}

/// `None` if what was asked for is not there.
pub(super) fn if_there<T>(result: std::result::Result<T, DockerError>) -> std::result::Result<Option<T>, DockerError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
