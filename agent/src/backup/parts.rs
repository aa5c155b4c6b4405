//! The engine's stream on its way between a strategy, which is async, and a thread.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::PollSender;

use super::Passed;

/// Size of a part, bytes.
pub(super) const PART: usize = 256 << 10;
/// Parts that wait between the two sides.
pub(super) const QUEUE: usize = 4;

/// What goes over the channel.
pub(super) enum Part {
    /// Some of the stream.
    Bytes(Bytes),
    /// That was all of it. A channel that is closed without this has broken.
    End,
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the pipeline of the backup has ended")
}

/// Where a strategy writes a backup. Counts and sums what it writes.
pub(super) struct PartSink {
    sender: PollSender<Part>,
    buffer: Vec<u8>,
    sum: blake3::Hasher,
    passed: watch::Sender<Passed>,
    is_broken: bool,
}

impl PartSink {
    pub(super) fn new(sender: mpsc::Sender<Part>, passed: watch::Sender<Passed>) -> Self {
        let (buffer, sum) = (Vec::with_capacity(PART), blake3::Hasher::new());
        Self { sender: PollSender::new(sender), buffer, sum, passed, is_broken: false }
    }

    /// Whether a write failed since the other side is gone, which says by itself why.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if ready!(self.sender.poll_reserve(context)).is_err() {
            self.is_broken = true;
            return Poll::Ready(Err(broken()));
        }
        let part = std::mem::replace(&mut self.buffer, Vec::with_capacity(PART));
        self.sum.update(&part);
        self.passed.send_modify(|passed| passed.bytes += part.len() as u64);
        let sent = self.sender.send_item(Part::Bytes(part.into()));
        self.is_broken |= sent.is_err();
        Poll::Ready(sent.map_err(|_| broken()))
    }

    /// Says that this was all. Bytes and sum of it.
    pub(super) async fn finish(&mut self) -> io::Result<(u64, blake3::Hash)> {
        self.flush().await?;
        let reserved = std::future::poll_fn(|context| self.sender.poll_reserve(context)).await;
        let sent = reserved.and_then(|()| self.sender.send_item(Part::End));
        self.is_broken |= sent.is_err();
        sent.map_err(|_| broken())?;
        self.passed.send_modify(|passed| passed.has_ended = true);
        let bytes = self.passed.borrow().bytes;
        Ok((bytes, self.sum.finalize()))
    }
}

impl AsyncWrite for PartSink {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.buffer.len() == PART {
            ready!(self.poll_send(context))?;
        }
        let length = bytes.len().min(PART - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() { Poll::Ready(Ok(())) } else { self.poll_send(context) }
    }

    /// A strategy that closes the sink says nothing by that: whether it was all is in what it returns.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

/// The next part for the thread; `None` at the end.
pub(super) fn next_part(inbox: &mut mpsc::Receiver<Part>) -> io::Result<Option<Bytes>> {
    match inbox.blocking_recv() {
        Some(Part::Bytes(bytes)) => Ok(Some(bytes)),
        Some(Part::End) => Ok(None),
        None => Err(broken()),
    }
}

/// Where a strategy reads a backup from.
pub(super) struct PartSource {
    inbox: mpsc::Receiver<Part>,
    open: Bytes,
    has_ended: bool,
    is_broken: bool,
}

impl PartSource {
    pub(super) fn new(inbox: mpsc::Receiver<Part>) -> Self {
        Self { inbox, open: Bytes::new(), has_ended: false, is_broken: false }
    }

    /// Whether a read failed since the other side is gone, which says by itself why.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Reads what is left. Only then is it known that all of it was right.
    pub(super) async fn drain(&mut self) -> io::Result<()> {
        let mut rest = vec![0; 64 << 10];
        while self.read(&mut rest).await? > 0 {}
        Ok(())
    }
}

impl AsyncRead for PartSource {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.open.is_empty() && !self.has_ended {
            match ready!(self.inbox.poll_recv(context)) {
                Some(Part::Bytes(bytes)) => self.open = bytes,
                Some(Part::End) => self.has_ended = true,
                None => {
                    self.is_broken = true;
                    return Poll::Ready(Err(broken()));
                }
            }
        }
        let length = out.remaining().min(self.open.len());
        out.put_slice(&self.open.split_to(length));
        Poll::Ready(Ok(()))
    }
}
