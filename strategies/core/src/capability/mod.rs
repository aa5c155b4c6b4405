//! What an engine may be able to do: one trait a capability, reached through an accessor of [`crate::Datastore`].
//!
//! Writes are idempotent: to create what exists with the same meaning, or to delete what is not there, is a success,
//! since each is called again after a crash.

pub mod backup;
pub mod databases;
pub mod logs;
pub mod parameters;
pub mod root;
pub mod users;

pub use backup::{Backup, Incremental, PourError, Sink, Source, Taken, pour};
pub use databases::{Database, Databases};
pub use logs::{LogPiece, Logs, PIECE_LIMIT};
pub use parameters::{Applied, Parameters};
pub use root::Root;
pub use users::{Grantee, NewUser, User, UserChange, Users};
