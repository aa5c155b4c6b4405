//! Where errors of engines meet errors of the wire.

use tonic::{Code, Status};
use trove_proto::v1;
use trove_strategy::{EngineError, Kind};

/// An error of a job, as it is recorded and sent.
pub fn wire_error(error: &EngineError) -> v1::Error {
    let kind = match error.kind() {
        Kind::Invalid => v1::ErrorKind::Invalid,
        Kind::Busy => v1::ErrorKind::Busy,
        // The agent lets itself in again; until then the caller asks again.
        Kind::Transient | Kind::LockedOut => v1::ErrorKind::Transient,
        Kind::Gone => v1::ErrorKind::Gone,
        Kind::Fatal => v1::ErrorKind::Fatal,
    };
    v1::Error { kind: kind.into(), message: error.chain() }
}

/// An error of a question.
pub fn question_error(error: &EngineError) -> Status {
    let code = match error.kind() {
        Kind::Invalid => Code::InvalidArgument,
        Kind::Busy => Code::Aborted,
        Kind::Transient | Kind::LockedOut => Code::Unavailable,
        Kind::Gone => Code::NotFound,
        Kind::Fatal => Code::Internal,
    };
    Status::new(code, error.chain())
}

/// The datastore has no such capability.
pub fn not_announced(capability: &str) -> Status {
    Status::unimplemented(format!("the datastore does not announce {capability}"))
}

/// The question did not get an answer in its time.
pub fn late() -> Status {
    Status::unavailable("the engine did not answer within 5 s")
}
