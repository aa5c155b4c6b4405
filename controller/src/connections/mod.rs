//! Connections from outside: how many there may be, how long they may be silent, and where they come from.
//!
//! A connection in which no request is under way for a while is closed. That is one rule for a head that never ends, for a
//! client that says nothing, for a TLS handshake and for HTTP/2. Bodies have a time of their own (`api/body.rs`), and so
//! has a client that does not read its answer (`written.rs`).

mod gate;
mod source;
mod written;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
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
use written::Written;

/// When no descriptor is left, accepting at once again would only spin.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// For the last bytes of an answer when the service ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// A port on which HTTP is served.
pub struct Port {
    /// Bound already.
    pub listener: TcpListener,
    /// Where it speaks TLS.
    pub tls: Option<TlsAcceptor>,
    /// Who may connect.
    pub gate: Arc<Gate>,
    /// How long a connection may have no request under way.
    pub idle: Duration,
}

/// Serves until `shutdown`, and then until the requests that are under way are answered.
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

/// One connection.
struct One {
    router: Router,
    place: Place,
    idle: Duration,
    shutdown: CancellationToken,
}

impl One {
    async fn begin(self, stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>) {
        // Without it answers would only be slower.
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
        let (under_way, mut changes) = watch::channel(0_usize);
        let under_way = Arc::new(under_way);
        let service = service_fn(move |request: Request<Incoming>| {
            let held = Held::new(&under_way);
            let mut request = request.map(Body::new);
            let source = if gate.is_proxy(source) { behind_proxy(request.headers(), source) } else { source };
            request.extensions_mut().insert(source);
            let answer = router.clone().oneshot(request);
            async move {
                let response: Response<Body> = answer.await?;
                Ok::<_, Infallible>(response.map(|body| Answer { body, _held: held }))
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new());
        builder.http2().timer(TokioTimer::new());
        let mut connection = pin!(builder.serve_connection(TokioIo::new(Written::new(stream, idle)), service));
        let given_up = place.given_up();
        let (mut silence, mut ending) = (pin!(sleep(idle)), false);
        loop {
            tokio::select! {
                // What the client did wrong is its own affair.
                _ = connection.as_mut() => return,
                _ = changes.changed() => {
                    let busy = *changes.borrow_and_update() > 0;
                    place.set_busy(busy);
                    silence.as_mut().reset(Instant::now() + if ending { FAREWELL } else { idle });
                }
                () = silence.as_mut(), if *changes.borrow() == 0 => return,
                () = given_up.cancelled() => return,
                () = shutdown.cancelled(), if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                    silence.as_mut().reset(Instant::now() + FAREWELL);
                }
            }
        }
    }
}

/// A request that is under way, until it is dropped.
struct Held(Arc<watch::Sender<usize>>);

impl Held {
    fn new(under_way: &Arc<watch::Sender<usize>>) -> Self {
        under_way.send_modify(|count| *count += 1);
        Self(under_way.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// An answer's body: its request is under way until it is sent.
struct Answer {
    body: Body,
    _held: Held,
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
