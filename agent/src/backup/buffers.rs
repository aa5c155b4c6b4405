//! Room for segments: a few buffers that are used again and again. Made anew for each segment, by whichever thread, the
//! allocator would keep several times as many.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The buffers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Buffers {
    size: usize,
    slots: Arc<Semaphore>,
    /// Those that are not in use and were before.
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Buffers {
    /// So many, of this size. They are made when they are needed first.
    pub(super) fn new(count: usize, size: usize) -> Self {
        Self { size, slots: Arc::new(Semaphore::new(count)), free: Arc::default() }
    }

    /// Size of each.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// An empty buffer, as soon as one is free.
    pub(super) async fn take(&self) -> Buffer {
        // Nobody closes the semaphore.
        let slot = self.slots.clone().acquire_owned().await.ok();
        let known = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = known.unwrap_or_else(|| Vec::with_capacity(self.size));
        Buffer { bytes, free: self.free.clone(), _slot: slot }
    }
}

/// A buffer in use. It is free again when it, or the last of the bytes that it became, is dropped.
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Buffer {
    /// Its contents, without a copy.
    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    /// Before the slot is free, so that whoever takes it finds the buffer.
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}
