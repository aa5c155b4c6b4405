//! Which failures of a database are its own, and not of what it was asked; and after which nobody knows what it has done.

use std::io;
use std::time::Duration;

use sqlx::error::DatabaseError;

/// SQLite's primary codes of what passes by itself or when somebody has mended the disk: busy, locked, out of memory,
/// read-only, interrupted, input or output, full, cannot be opened, the locking protocol.
const SQLITE: [u32; 9] = [5, 6, 7, 8, 9, 10, 13, 14, 15];

/// The same of PostgreSQL: the connection, a snapshot or lock that could not be had, a server that only reads, resources,
/// the operator's interference, the system itself.
const PASSING_STATES: [&str; 7] = ["08", "40", "25006", "53", "55P03", "57", "58"];

/// A commit without an answer: it may have been done.
#[derive(Debug, thiserror::Error)]
#[error("it is not known whether the commit was done: {0}")]
struct UnknownOutcome(sqlx::Error);

/// That a server has said nothing for so long.
pub(super) fn unanswered(limit: Duration) -> sqlx::Error {
    let text = format!("the database has not answered within {} s", limit.as_secs());
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text))
}

/// The error of a commit that was sent.
pub(super) fn commit_failed(error: sqlx::Error) -> sqlx::Error {
    match error {
        // The database said so itself: it has rolled back.
        sqlx::Error::Database(_) => error,
        error => sqlx::Error::Io(io::Error::other(UnknownOutcome(error))),
    }
}

/// Whether what was to be committed may have been.
pub(crate) fn is_of_unknown_outcome(error: &sqlx::Error) -> bool {
    let sqlx::Error::Io(error) = error else { return false };
    error.get_ref().is_some_and(|error| error.is::<UnknownOutcome>())
}

/// Whether the database could not be reached, or could not do what it was asked just now.
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
    // The lowest byte of an extended code is the primary one.
    code.parse::<u32>().is_ok_and(|code| SQLITE.contains(&(code & 0xff)))
}
