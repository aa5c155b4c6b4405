//! Maps errors of strategies to those of the gRPC interface.

use std::time::Duration;

use tonic::{Code, Status};
use trove_proto::v1;
use trove_strategy::{EngineError, Kind};

/// The error of a job, as it is recorded and sent.
pub fn wire_error(error: &EngineError) -> v1::Error {
    let kind = match error.kind() {
        Kind::Invalid => v1::ErrorKind::Invalid,
        Kind::Busy => v1::ErrorKind::Busy,
        // The agent restores its own login, so the caller may try again.
        Kind::Transient | Kind::LockedOut => v1::ErrorKind::Transient,
        Kind::Gone => v1::ErrorKind::Gone,
        Kind::Fatal => v1::ErrorKind::Fatal,
    };
    v1::Error { kind: kind.into(), message: error.chain() }
}

/// What came over the wire, back.
pub fn engine_error(error: &v1::Error) -> EngineError {
    let kind = match error.kind() {
        v1::ErrorKind::Invalid => Kind::Invalid,
        v1::ErrorKind::Busy => Kind::Busy,
        v1::ErrorKind::Transient => Kind::Transient,
        v1::ErrorKind::Gone => Kind::Gone,
        _ => Kind::Fatal,
    };
    EngineError::new(kind, error.message.clone())
}

/// The error of a read call.
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

pub fn not_announced(capability: &str) -> Status {
    Status::unimplemented(format!("the datastore does not announce {capability}"))
}

pub fn late(limit: Duration) -> Status {
    Status::unavailable(format!("the engine did not answer within {} s", limit.as_secs()))
}
