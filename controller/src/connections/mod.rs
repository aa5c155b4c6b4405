//! HTTP connections from clients: their number, idle timeout, and source address.
//!
//! A connection without a request for some time is closed. This one rule covers slow request heads, silent clients, TLS
//! handshakes and HTTP/2. Request bodies have a timeout of their own (`api/http/body.rs`), and so has writing to a
//! client that does not read (`written.rs`). For the gate, a connection is busy only once a request's body has arrived,
//! so a client that sends half a body is replaced like an idle one.

mod gate;
mod source;
mod written;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
pub use gate::{Gate, Limits, Place, Shares};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
pub use source::{Source, behind_proxy};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
pub(crate) use written::Written;

/// Pause after a failed accept. Without it the loop would spin while no file descriptor is free.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Time to send the last bytes of an answer at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// A port to serve HTTP on.
pub struct Port {
    pub listener: TcpListener,
    /// Set if the port uses TLS.
    pub tls: Option<TlsAcceptor>,
    pub gate: Arc<Gate>,
    /// Idle timeout.
    pub idle: Duration,
}

/// Serves until `shutdown`, then until the requests in progress are answered.
pub async fn serve(port: Port, router: Router, shutdown: CancellationToken) {
    let Port { listener, tls, gate, idle } = port;
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection to {} was not accepted: {error}", gate.port());
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let source = Source::of(peer.ip());
        let Some(place) = gate.admit(source) else { continue };
        let one = One { router: router.clone(), place, idle, shutdown: shutdown.clone() };
        let tls = tls.clone();
        tasks.spawn(async move { one.begin(stream, peer, tls).await });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

struct One {
    router: Router,
    place: Place,
    idle: Duration,
    shutdown: CancellationToken,
}

impl One {
    async fn begin(self, stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>) {
        // Not essential: without it answers are slower.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else { return self.speak(stream).await };
        let given_up = self.place.given_up();
        let shaken = tokio::select! {
            shaken = timeout(self.idle, tls.accept(stream)) => shaken,
            () = given_up.cancelled() => return,
            () = self.shutdown.cancelled() => return,
        };
        match shaken {
            Ok(Ok(stream)) => self.speak(stream).await,
            Ok(Err(error)) => tracing::debug!("{peer} does not speak TLS: {error}"),
            Err(_) => tracing::debug!("{peer} did not finish its TLS handshake"),
        }
    }

    async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let Self { router, place, idle, shutdown } = self;
        let (source, gate) = (place.source(), place.gate());
        let (requests, mut changes) = watch::channel(Requests::default());
        let requests = Arc::new(requests);
        let service = service_fn(move |request: Request<Incoming>| {
            let held = Arc::new(Held::new(&requests));
            let mut request = request.map(|body| Body::new(Arriving::new(body, held.clone())));
            let source = if gate.is_proxy(source) { behind_proxy(request.headers(), source) } else { source };
            request.extensions_mut().insert(source);
            let answer = router.clone().oneshot(request);
            async move {
                let response: Response<Body> = answer.await?;
                held.arrived();
                Ok::<_, Infallible>(response.map(|body| Answer { body, _held: held }))
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new());
        builder.http2().timer(TokioTimer::new());
        let mut connection = pin!(builder.serve_connection(TokioIo::new(Written::new(stream, idle)), service));
        let given_up = place.given_up();
        let (mut silence, mut ending, mut was_busy) = (pin!(sleep(idle)), false, false);
        loop {
            tokio::select! {
                // An error here is the client's: ignore it.
                _ = connection.as_mut() => return,
                _ = changes.changed() => {
                    let busy = changes.borrow_and_update().under_way > 0;
                    // A request whose body has not arrived does not end the idle time.
                    if busy || was_busy {
                        place.set_busy(busy);
                    }
                    was_busy = busy;
                    silence.as_mut().reset(Instant::now() + if ending { SHUTDOWN_GRACE } else { idle });
                }
                () = silence.as_mut(), if changes.borrow().are_none() => return,
                () = given_up.cancelled() => return,
                () = shutdown.cancelled(), if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                    silence.as_mut().reset(Instant::now() + SHUTDOWN_GRACE);
                }
            }
        }
    }
}

/// Numbers of requests of a connection.
#[derive(Clone, Copy, Default)]
struct Requests {
    /// Requests whose body has not arrived completely.
    arriving: usize,
    /// Requests that are being processed or answered.
    under_way: usize,
}

impl Requests {
    fn are_none(self) -> bool {
        self.arriving + self.under_way == 0
    }
}

/// A request of a connection. It counts until this is dropped.
struct Held {
    requests: Arc<watch::Sender<Requests>>,
    has_arrived: AtomicBool,
}

impl Held {
    fn new(requests: &Arc<watch::Sender<Requests>>) -> Self {
        requests.send_modify(|requests| requests.arriving += 1);
        Self { requests: requests.clone(), has_arrived: AtomicBool::new(false) }
    }

    fn arrived(&self) {
        if !self.has_arrived.swap(true, Ordering::Relaxed) {
            self.requests.send_modify(|requests| {
                requests.arriving -= 1;
                requests.under_way += 1;
            });
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let has_arrived = *self.has_arrived.get_mut();
        self.requests.send_modify(|requests| match has_arrived {
            true => requests.under_way -= 1,
            false => requests.arriving -= 1,
        });
    }
}

/// A request's body, which records when it has arrived completely.
struct Arriving {
    body: Incoming,
    held: Arc<Held>,
}

impl Arriving {
    fn new(body: Incoming, held: Arc<Held>) -> Self {
        if body.is_end_stream() {
            held.arrived();
        }
        Self { body, held }
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.held.arrived();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body, which keeps its request in progress until it is sent.
struct Answer {
    body: Body,
    _held: Arc<Held>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
