//! Backups: the engine's whole state as one stream of bytes, and back. The agent compresses, encrypts, cuts, sums and stores
//! it; a strategy only says what is in the stream.

use std::io;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::capability::Logs;
use crate::error::EngineError;
use crate::site::Site;

/// Where a backup goes. It takes what is written as fast as the storage does: an engine must bear that its tool waits.
pub type Sink = dyn AsyncWrite + Send + Unpin;

/// Where a backup comes from. Its end is read only when every sum was right: before, a read fails.
pub type Source = dyn AsyncRead + Send + Unpin;

/// What [`pour`] has in memory, bytes.
const PIECE: usize = 256 << 10;

/// Why [`pour`] broke off.
#[derive(Debug)]
pub enum PourError {
    /// It could not be read on.
    Read(io::Error),
    /// It could not be written on.
    Write(io::Error),
    /// What came is not let pass, for this reason.
    Refused(String),
}

/// Copies a stream to its end: a tool's output into a [`Sink`], or a [`Source`] into a tool's input. Of what is written nothing
/// waits for more: it is flushed at the end. Each piece is looked at before it is written.
///
/// # Errors
/// Which of the two broke, or why a piece was refused.
pub async fn pour<R, W>(
    from: &mut R,
    into: &mut W,
    mut look: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), PourError>
where
    R: AsyncRead + Unpin + ?Sized,
    W: AsyncWrite + Unpin + ?Sized,
{
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await.map_err(PourError::Read)?;
        if read == 0 {
            return into.flush().await.map_err(PourError::Write);
        }
        look(&piece[..read]).map_err(PourError::Refused)?;
        into.write_all(&piece[..read]).await.map_err(PourError::Write)?;
    }
}

/// What is known of a backup once it was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Taken {
    /// How far the engine's log had come, in the engine's own words, which are at most 128 printable ASCII characters without a
    /// space; what is restored is at least as new.
    pub position: Option<String>,
    /// What [`Incremental::take`] begins at to build on this backup, as short a word as the position. `None`: nothing builds on it.
    pub checkpoint: Option<String>,
    /// Bytes of memory that the data took, for an engine that holds all of them in memory
    /// ([`crate::Identity::data_memory_percent`]): what is stored may be far shorter.
    pub memory_bytes: Option<u64>,
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
    /// run; its certificate is in its place, and nothing is configured. Afterwards [`crate::Engine::initialise`] finds it made, and a normal start brings up what was backed up, with the
    /// users and passwords of then and the agent's own account of this site. What the stream is of is not trusted: paths that
    /// lead out of the data directory are refused, and files are the engine's account's.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`]: the stream is no backup of this engine. The data directory is then as good as not there: the next
    /// call begins anew.
    async fn restore(&self, site: &Site, source: &mut Source) -> Result<(), EngineError>;

    /// Increments, where the engine has them.
    fn incremental(&self) -> Option<&dyn Incremental> {
        None
    }

    /// The log of writes, where the engine can replay it on a backup.
    fn logs(&self) -> Option<&dyn Logs> {
        None
    }

    /// Has the engine's own check look at everything that was restored, beyond what [`Backup::restore`] has compared. The engine
    /// runs on it and nobody else uses it; it is thrown away afterwards, so that the check may change it. The default is for an
    /// engine whose restore and start have looked at everything: nothing is left to check.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`]: the data are damaged. The text names the first places, and holds nothing of tenants' data. It
    /// is told to the backup's owner, its beginning at least.
    async fn check(&self, _site: &Site) -> Result<(), EngineError> {
        Ok(())
    }
}

/// Backups that hold what has changed since another one. A chain of them is restored by [`Incremental::begin`] with the full
/// backup, [`Incremental::apply`] with each increment in the order in which they were taken, and [`Incremental::finish`].
/// What [`Backup::restore`] says of a restore, and of what the stream is of, is true of the three together; after a crash the
/// chain begins anew.
#[async_trait]
pub trait Incremental: Send + Sync {
    /// As [`Backup::take`], of what has changed since the backup that had this checkpoint.
    ///
    /// # Errors
    /// As there. [`crate::Kind::Invalid`]: it is no checkpoint.
    async fn take(&self, site: &Site, checkpoint: &str, sink: &mut Sink) -> Result<Taken, EngineError>;

    /// Takes the full backup, beside the place of the data directory.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`]: the stream is no full backup of this engine.
    async fn begin(&self, site: &Site, source: &mut Source) -> Result<(), EngineError>;

    /// Takes an increment.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`]: the stream is no increment, or of another backup than the one before it.
    async fn apply(&self, site: &Site, source: &mut Source) -> Result<(), EngineError>;

    /// Puts what was taken in the place of the data directory.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`]: it is no whole state.
    async fn finish(&self, site: &Site) -> Result<(), EngineError>;
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use super::*;

    struct Failing;

    impl AsyncRead for Failing {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::Error::other("it broke")))
        }
    }

    #[tokio::test]
    async fn a_stream_is_poured_whole_or_it_is_said_which_side_broke() {
        let (long, mut poured, mut seen) = (vec![7; 3 * PIECE + 1], Vec::new(), 0);
        let count = |piece: &[u8]| {
            seen += piece.len();
            Ok(())
        };
        pour(&mut long.as_slice(), &mut poured, count).await.unwrap();
        assert!(poured == long && seen == long.len());
        let full = pour(&mut long.as_slice(), &mut Cursor::new([0; 9].as_mut_slice()), |_| Ok(())).await;
        assert!(matches!(full, Err(PourError::Write(_))), "{full:?}");
        let unread = pour(&mut Failing, &mut Vec::new(), |_| Ok(())).await;
        assert!(matches!(unread, Err(PourError::Read(_))), "{unread:?}");
        let mut poured = Vec::new();
        let refused = pour(&mut long.as_slice(), &mut poured, |_| Err("no".to_owned())).await;
        assert!(matches!(refused, Err(PourError::Refused(reason)) if reason == "no"));
        assert!(poured.is_empty(), "what was refused went on");
    }
}
