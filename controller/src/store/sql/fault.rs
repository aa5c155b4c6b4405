//! Classifies errors of a database: which are the database's own (and not the statement's), and after which it is
//! unknown whether the statement took effect.

use std::io;
use std::time::Duration;

use sqlx::error::DatabaseError;

/// Primary result codes of SQLite that are transient, or pass when the disk is repaired: BUSY, LOCKED, NOMEM, READONLY,
/// INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL.
const SQLITE: [u32; 9] = [5, 6, 7, 8, 9, 10, 13, 14, 15];

/// SQLSTATE prefixes of PostgreSQL that are transient: connection, rollback (such as serialization), read-only,
/// resources, lock not available, operator intervention, system error.
const PASSING_STATES: [&str; 7] = ["08", "40", "25006", "53", "55P03", "57", "58"];

/// A commit without an answer. It may have taken effect.
#[derive(Debug, thiserror::Error)]
#[error("it is not known whether the commit was done: {0}")]
struct UnknownOutcome(sqlx::Error);

/// The error for a server that did not answer within `limit`.
pub(super) fn unanswered(limit: Duration) -> sqlx::Error {
    let text = format!("the database has not answered within {} s", limit.as_secs());
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text))
}

/// Converts the error of a commit that was sent.
pub(super) fn commit_failed(error: sqlx::Error) -> sqlx::Error {
    match error {
        // The database itself reported the error, so it has rolled back.
        sqlx::Error::Database(_) => error,
        error => sqlx::Error::Io(io::Error::other(UnknownOutcome(error))),
    }
}

/// Whether the commit may have taken effect.
pub(crate) fn is_of_unknown_outcome(error: &sqlx::Error) -> bool {
    let sqlx::Error::Io(error) = error else { return false };
    error.get_ref().is_some_and(|error| error.is::<UnknownOutcome>())
}

/// Whether the database could not be reached, or had a transient failure.
pub(crate) fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(error) => is_its_own(&**error),
        _ => false,
    }
}

fn is_its_own(error: &dyn DatabaseError) -> bool {
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
        return PASSING_STATES.iter().any(|class| code.starts_with(class));
    }
    // The lowest byte of an extended result code is the primary one.
    code.parse::<u32>().is_ok_and(|code| SQLITE.contains(&(code & 0xff)))
}
