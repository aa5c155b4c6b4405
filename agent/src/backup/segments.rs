//! The stored stream, cut into segments. Both sides run in a thread; each segment in memory holds a buffer.

use std::io::{self, BufRead, Read, Write};

use hyper::body::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::buffers::{Buffer, Buffers};

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes or gives segments any more")
}

/// A segment that is full, or the last one.
pub(super) struct Full {
    pub(super) bytes: Bytes,
    pub(super) sum: blake3::Hash,
}

/// A segment that is being filled.
struct Open {
    buffer: Buffer,
    sum: blake3::Hasher,
}

/// Cuts what is written to it. What was not finished is dropped with it, so that a stream that broke off has no last
/// segment.
pub(super) struct SegmentWriter {
    buffers: Buffers,
    runtime: Handle,
    out: mpsc::Sender<Full>,
    open: Option<Open>,
}

impl SegmentWriter {
    pub(super) fn new(buffers: Buffers, runtime: Handle, out: mpsc::Sender<Full>) -> Self {
        Self { buffers, runtime, out, open: None }
    }

    fn close(&mut self) -> io::Result<()> {
        let Some(Open { buffer, sum }) = self.open.take() else { return Ok(()) };
        let full = Full { bytes: buffer.into_bytes(), sum: sum.finalize() };
        self.out.blocking_send(full).map_err(|_| broken())
    }

    /// Gives away the last segment.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.close()
    }
}

impl Write for SegmentWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.open.is_none() {
            let buffer = self.runtime.block_on(self.buffers.take());
            self.open = Some(Open { buffer, sum: blake3::Hasher::new() });
        }
        let Some(open) = &mut self.open else { return Ok(0) };
        let length = bytes.len().min(self.buffers.size() - open.buffer.bytes.len());
        open.buffer.bytes.extend_from_slice(&bytes[..length]);
        open.sum.update(&bytes[..length]);
        if open.buffer.bytes.len() == self.buffers.size() {
            self.close()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads segments one after the other, up to an explicit end.
pub(super) struct SegmentReader {
    inbox: mpsc::Receiver<Option<Bytes>>,
    open: Option<Bytes>,
    has_ended: bool,
}

impl SegmentReader {
    /// What comes is segments whose sizes and sums are right; `None` is the end. An inbox that is closed without it has broken.
    pub(super) fn new(inbox: mpsc::Receiver<Option<Bytes>>) -> Self {
        Self { inbox, open: None, has_ended: false }
    }
}

impl BufRead for SegmentReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while !self.has_ended && self.open.as_ref().is_none_or(Bytes::is_empty) {
            // Before the next one is waited for, which needs the buffer.
            self.open = None;
            match self.inbox.blocking_recv() {
                Some(Some(bytes)) => self.open = Some(bytes),
                Some(None) => self.has_ended = true,
                None => return Err(broken()),
            }
        }
        Ok(self.open.as_ref().map_or(&[][..], |open| &open[..]))
    }

    fn consume(&mut self, length: usize) {
        if let Some(open) = &mut self.open {
            // Not `advance`, of which the crate is not at hand.
            drop(open.split_to(length));
        }
    }
}

impl Read for SegmentReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let open = self.fill_buf()?;
        let length = out.len().min(open.len());
        out[..length].copy_from_slice(&open[..length]);
        self.consume(length);
        Ok(length)
    }
}
