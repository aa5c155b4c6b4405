//! Backups: the engine's whole state as one stream of bytes, and back. The agent compresses, encrypts, cuts, sums and stores
//! it; a strategy only says what is in the stream.

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::EngineError;
use crate::site::Site;

/// Where a backup goes. It takes what is written as fast as the storage does: an engine must bear that its tool waits.
pub type Sink = dyn AsyncWrite + Send + Unpin;

/// Where a backup comes from. Its end is read only when every sum was right: before, a read fails.
pub type Source = dyn AsyncRead + Send + Unpin;

/// What is known of a backup once it was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Taken {
    /// How far the engine's log had come, in the engine's own words, which are at most 128 printable ASCII characters without a
    /// space; what is restored is at least as new.
    pub position: Option<String>,
}

/// Backups.
#[async_trait]
pub trait Backup: Send + Sync {
    /// Writes a whole backup of the running engine, consistent in itself, without keeping tenants from writing. What it needs
    /// meanwhile (a slot, a lock, a temporary file) is gone when it ends, also when it is dropped half-way or the agent is
    /// killed: at the latest the next call removes it. Called again after a crash it begins anew.
    ///
    /// # Errors
    /// The engine's tool failed: nothing of what was written is used. An error of the sink is passed on.
    async fn take(&self, site: &Site, sink: &mut Sink) -> Result<Taken, EngineError>;

    /// Puts the backup in the place of the data directory, which is not there: the agent has removed it. The engine does not
    /// run. Afterwards [`crate::Engine::initialise`] finds it made, and a normal start brings up what was backed up, with the
    /// users and passwords of then and the agent's own account of this site. What the stream is of is not trusted: paths that
    /// lead out of the data directory are refused, and files are the engine's account's.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`]: the stream is no backup of this engine. The data directory is then as good as not there: the next
    /// call begins anew.
    async fn restore(&self, site: &Site, source: &mut Source) -> Result<(), EngineError>;
}
