//! The engine's log of writes, piece by piece: what a backup needs to become the state of any later moment. The agent compresses,
//! encrypts and stores the pieces; a strategy only says what is in them and replays them.

use std::time::SystemTime;

use async_trait::async_trait;

use crate::error::EngineError;
use crate::site::Site;

/// The most that a piece has, bytes.
pub const PIECE_LIMIT: usize = 16 << 20;

/// A part of the log to which nothing is added any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPiece {
    /// Where it begins, in the engine's own words, which are at most 128 printable ASCII characters without a space.
    pub from: String,
    /// Where it ends: there the next one begins.
    pub until: String,
    /// At most [`PIECE_LIMIT`].
    pub bytes: Vec<u8>,
}

/// Pieces of the log. While the engine runs, the agent alone calls, one call after the other.
#[async_trait]
pub trait Logs: Send + Sync {
    /// Has the engine keep its log until [`Logs::stored`] is told, also over its restarts, and answers where what it keeps
    /// begins. Asked again it changes nothing. A storage that is away must not fill the volume: beyond a bound the engine drops
    /// what it kept, and this begins anew, at a later place.
    ///
    /// # Errors
    /// [`crate::Kind::Transient`]: the engine does not answer, or follows another one.
    async fn keep(&self, site: &Site) -> Result<String, EngineError>;

    /// Bytes that were written since the last piece was closed, and that matter to a restore; 0: there is nothing to close.
    ///
    /// # Errors
    /// As above.
    async fn open_bytes(&self, site: &Site) -> Result<u64, EngineError>;

    /// Closes the piece that is being written, where anything is in it. Whatever was acknowledged before this call is in pieces that are closed after it.
    ///
    /// # Errors
    /// As above.
    async fn close(&self, site: &Site) -> Result<(), EngineError>;

    /// The piece that begins here; `None` while it is not closed.
    ///
    /// # Errors
    /// [`crate::Kind::Gone`]: the engine has dropped it, or a tenant has.
    async fn piece(&self, site: &Site, from: &str) -> Result<Option<LogPiece>, EngineError>;

    /// What lies before this place is stored, and need not be kept.
    ///
    /// # Errors
    /// As [`Logs::keep`].
    async fn stored(&self, site: &Site, until: &str) -> Result<(), EngineError>;

    /// The engine keeps nothing for the agent any more.
    ///
    /// # Errors
    /// As [`Logs::keep`].
    async fn forget(&self, site: &Site) -> Result<(), EngineError>;

    /// Takes a piece that is to be replayed: after [`crate::Backup::restore`] (or [`crate::Incremental::finish`]) of a backup that was
    /// begun after the first of the pieces was, in their order, while the engine does not run. What it is of is not trusted.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`]: it is no piece of this engine's log.
    async fn take(&self, site: &Site, piece: LogPiece) -> Result<(), EngineError>;

    /// Replays what was taken: all of it, or what was committed at `until` and before. Afterwards the engine's next normal start
    /// goes on from there, and what it writes then is no part of the old log.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`]: the backup had not ended at that time, or a piece is missing or damaged.
    async fn replay(&self, site: &Site, until: Option<SystemTime>) -> Result<(), EngineError>;
}
