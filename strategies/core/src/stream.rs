//! Commands whose output or input is a stream of bytes, as [`crate::Host`] hands them out. Nothing is buffered beyond the
//! system's pipe: where one side does not go on, the other one waits.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::oneshot;

use crate::command::Output;
use crate::error::HostError;

type End = Pin<Box<dyn Future<Output = Result<Output, HostError>> + Send>>;
type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Comes when a stream was closed on this side, or was at its end.
pub struct Closed(oneshot::Receiver<()>);

impl Future for Closed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Nothing is ever sent: the stream drops the other end.
        Pin::new(&mut self.0).poll(context).map(|_| ())
    }
}

/// One side of a pipe, and what tells that it was dropped.
struct Open<T> {
    pipe: T,
    _open: oneshot::Sender<()>,
}

impl<T> Open<T> {
    fn new(pipe: T) -> (Self, Closed) {
        let (open, closed) = oneshot::channel();
        (Self { pipe, _open: open }, Closed(closed))
    }
}

/// The end, polled from many places and kept once it is there.
struct Ending {
    future: Option<End>,
    result: Option<Result<Output, HostError>>,
}

impl Ending {
    fn new(end: impl Future<Output = Result<Output, HostError>> + Send + 'static) -> Self {
        Self { future: Some(Box::pin(end)), result: None }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        if let Some(future) = self.future.as_mut() {
            self.result = Some(ready!(future.as_mut().poll(context)));
            // What is left of a command that was late is killed here.
            self.future = None;
        }
        match &self.result {
            Some(Err(error)) => Poll::Ready(Err(io::Error::other(error.clone()))),
            _ => Poll::Ready(Ok(())),
        }
    }

    async fn get(mut self) -> Result<Output, HostError> {
        match (self.result.take(), self.future.take()) {
            (Some(result), _) => result,
            (None, Some(future)) => future.await,
            (None, None) => Ok(Output::default()),
        }
    }
}

/// The standard output of a command that runs. Its end is read only when the command has ended with status 0; otherwise
/// the read fails with the [`HostError`], so that half an output is never taken for a whole one. The deadline is looked at
/// while it is read. Dropped before, it kills the command with its children.
pub struct OutputStream {
    stdout: Option<Open<Reader>>,
    end: Ending,
}

impl OutputStream {
    /// With the way to read it and the command's end. An end that is good does not come before the output's.
    pub fn new<E>(stdout: impl AsyncRead + Send + Unpin + 'static, end: impl FnOnce(Closed) -> E) -> Self
    where
        E: Future<Output = Result<Output, HostError>> + Send + 'static,
    {
        let (stdout, closed) = Open::new(Box::new(stdout) as Reader);
        Self { stdout: Some(stdout), end: Ending::new(end(closed)) }
    }

    /// The end of the command, with the end of its standard error. What was not read yet is not read any more.
    ///
    /// # Errors
    /// It ended with another status than 0, or was late.
    pub async fn finish(mut self) -> Result<Output, HostError> {
        self.stdout = None;
        self.end.get().await
    }
}

impl fmt::Debug for OutputStream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("OutputStream").field("end", &self.end.result).finish_non_exhaustive()
    }
}

impl AsyncRead for OutputStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Standard error is read and the deadline looked at here: a command that waits for either would never go on.
        if let Poll::Ready(ended) = self.end.poll(context) {
            ended?;
        }
        if let Some(stdout) = self.stdout.as_mut() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut stdout.pipe).poll_read(context, buffer))?;
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            self.stdout = None;
        }
        self.end.poll(context)
    }
}

/// The standard input of a command that runs. Dropped before [`InputStream::finish`], it kills the command with its
/// children: what was written may be half of it. The deadline is looked at while it is written.
pub struct InputStream {
    stdin: Option<Open<Writer>>,
    end: Ending,
}

impl InputStream {
    /// With the way to write it and the command's end.
    pub fn new<E>(stdin: impl AsyncWrite + Send + Unpin + 'static, end: impl FnOnce(Closed) -> E) -> Self
    where
        E: Future<Output = Result<Output, HostError>> + Send + 'static,
    {
        let (stdin, closed) = Open::new(Box::new(stdin) as Writer);
        Self { stdin: Some(stdin), end: Ending::new(end(closed)) }
    }

    /// Says that this was all, and waits for the end of the command. What it said is the answer.
    ///
    /// # Errors
    /// It ended with another status than 0, or was late.
    pub async fn finish(mut self) -> Result<Output, HostError> {
        if let Some(mut stdin) = self.stdin.take() {
            // One that has ended says so by its status.
            let _ = stdin.pipe.shutdown().await;
        }
        self.end.get().await
    }

    /// The error of a command that reads no more.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let ended = ready!(self.end.poll(context));
        let left = || io::Error::new(io::ErrorKind::BrokenPipe, "the command ended before it had read everything");
        Poll::Ready(ended.err().unwrap_or_else(left))
    }
}

impl fmt::Debug for InputStream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("InputStream").field("end", &self.end.result).finish_non_exhaustive()
    }
}

impl AsyncWrite for InputStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_gone(context) {
            return Poll::Ready(Err(error));
        }
        match self.stdin.as_mut().map(|stdin| Pin::new(&mut stdin.pipe).poll_write(context, bytes)) {
            Some(Poll::Ready(Err(error))) if error.kind() == io::ErrorKind::BrokenPipe => self.stdin = None,
            Some(written) => return written,
            None => {}
        }
        self.poll_gone(context).map(Err)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stdin.as_mut() {
            Some(stdin) => Pin::new(&mut stdin.pipe).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(stdin) = self.stdin.as_mut() {
            ready!(Pin::new(&mut stdin.pipe).poll_shutdown(context))?;
            self.stdin = None;
        }
        self.end.poll(context)
    }
}
