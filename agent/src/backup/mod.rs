//! Backups: the way of an engine's stream into objects, and back.
//!
//! ```text
//! take:    strategy -> parts -> [zstd -> age -> segments] -> storage, the manifest last
//! restore: the manifest first, storage -> segments (their sums) -> [age -> zstd -> size and sum] -> parts -> strategy
//! ```
//! What is in brackets runs in a thread of its own. Everything between has a bound, so that an engine's tool waits when
//! the storage does; of segments there are two at a time ([`SLOTS`]). The end of a stream is a message of its own
//! (`Part::End`): a channel that is closed without it has broken, and what reads from it fails.

mod buffers;
mod parts;
mod restore;
mod segments;
mod take;
#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use async_trait::async_trait;
use hyper::body::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trove_proto::backup::MANIFEST_NAME;
use trove_strategy::{Backup, EngineError, Incremental, Kind};

use parts::Part;
pub use restore::{Link, RestoreOrder, restore};
pub(crate) use restore::{MOST_HEADER, MOST_WINDOW};
pub(crate) use take::encryptor;
pub use take::{TakeOrder, take};

/// Segments that are in memory at once: one that is filled or emptied, and one on its way from or to the storage.
pub const SLOTS: usize = 2;
/// The most that progress is told.
const TELL_AGAIN: Duration = Duration::from_millis(500);

/// A stream that has begun and of which no byte moves for this long is given up. An engine's tool waits for the storage while it
/// holds what tenants may need: mariadb-backup its lock on commits at the end, pg_basebackup the server's log. It is more than
/// what one request to a storage may take that does not answer (60 s), with the next one, at another controller.
pub const STANDSTILL: Duration = Duration::from_secs(120);

/// How far the engine's stream is.
#[derive(Clone, Copy, Default)]
struct Passed {
    bytes: u64,
    /// Nothing follows.
    has_ended: bool,
}

/// Where the objects of one run lie.
#[async_trait]
pub trait Storage: Send + Sync {
    /// Stores an object that is not there yet. Does not keep the bytes, whose buffer the next segment waits for.
    ///
    /// # Errors
    /// It is not known to be stored, and was tried long enough.
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), EngineError>;

    /// An object of at most `limit` bytes, into a buffer, which has nothing else afterwards.
    ///
    /// # Errors
    /// [`Kind::Gone`]: it is not there. [`Kind::Invalid`]: it is larger. Else it could not be asked for, and that was
    /// tried long enough.
    async fn get(&self, name: &str, limit: u64, into: &mut Vec<u8>) -> Result<(), EngineError>;

    /// Why the object that is at hand is not stored or read yet, where it was tried in vain.
    fn trouble(&self) -> Option<String> {
        None
    }
}

/// Receives how many bytes of the engine's stream have passed, and how many there are where that is known.
pub type Tell<'a> = &'a (dyn Fn(u64, Option<u64>) + Send + Sync);

/// # Errors
/// The engine has no increments.
fn incremental(strategy: &dyn Backup) -> Result<&dyn Incremental, EngineError> {
    let none = || EngineError::new(Kind::Invalid, "the datastore does not announce incremental");
    strategy.incremental().ok_or_else(none)
}

/// An object as errors call it.
fn object(name: &str, backup: &str) -> String {
    if name == MANIFEST_NAME {
        format!("the manifest of backup {backup}")
    } else {
        format!("segment {name} of backup {backup}")
    }
}

/// An error of the storage, with the object's name. What is not there is as damaged as what is another.
fn of_object(name: &str, backup: &str, error: EngineError) -> EngineError {
    let kind = if error.kind() == Kind::Gone { Kind::Invalid } else { error.kind() };
    EngineError::new(kind, format!("{}: {}", object(name, backup), error.chain()))
}

/// A stream stands still.
fn stands_still(storage: &dyn Storage, limit: Duration) -> EngineError {
    let why = storage.trouble().unwrap_or_else(|| "the engine's tool or the storage stands still".to_owned());
    EngineError::new(Kind::Transient, format!("no byte of it moved for {} s: {why}", limit.as_secs()))
}

/// What bounds the work on a stream.
struct Bounds<'a> {
    cancel: &'a CancellationToken,
    /// See [`STANDSTILL`].
    standstill: Duration,
    storage: &'a dyn Storage,
}

/// Does the work until it is cancelled or the stream stands still, and tells meanwhile how far it is, not too often.
async fn told<T>(
    work: impl Future<Output = Result<T, EngineError>>,
    bounds: Bounds<'_>,
    mut passed: watch::Receiver<Passed>,
    tell: impl Fn(u64),
) -> Result<T, EngineError> {
    let Bounds { cancel, standstill: limit, storage } = bounds;
    tokio::pin!(work);
    let mut next = Instant::now();
    // When a byte moved last, in a stream that has begun and not ended: before and after that a strategy may work for long.
    let mut moved_at = None::<Instant>;
    loop {
        let standstill = async {
            match moved_at {
                Some(at) => tokio::time::sleep_until(at + limit).await,
                None => std::future::pending().await,
            }
        };
        let moved = async {
            tokio::time::sleep_until(next).await;
            if passed.changed().await.is_err() {
                // Everything has passed; the work is about to end.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(EngineError::new(Kind::Transient, "it is not waited for any more")),
            done = &mut work => {
                tell(passed.borrow().bytes);
                return done;
            }
            () = moved => {}
            () = standstill => return Err(stands_still(storage, limit)),
        }
        let now = *passed.borrow_and_update();
        moved_at = (now.bytes > 0 && !now.has_ended).then(Instant::now);
        tell(now.bytes);
        next = Instant::now() + TELL_AGAIN;
    }
}

/// The result of a thread. One that panicked has failed.
async fn joined<T>(what: &str, thread: tokio::task::JoinHandle<Result<T, EngineError>>) -> Result<T, EngineError> {
    thread.await.unwrap_or_else(|error| Err(EngineError::caused(Kind::Fatal, what, error)))
}
