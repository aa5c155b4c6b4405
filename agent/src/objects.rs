//! The client of objects of backups: HTTP/1.1 over mutual TLS to the agents' port of any of the controllers, or to the storage that a
//! grant names. A request needs a grant, which is good for one object; [`granted`] asks for grants and tries again.
//!
//! What a grant holds is sent to nobody but whom its address names: no redirection is followed, and nothing of it but host and port is
//! logged or in an error.
//!
//! One connection is kept between requests. A request ends when no byte moved for a minute, however long it takes in
//! all: an object may be large and the way to it slow.

mod destination;
pub mod granted;
#[cfg(test)]
mod tests;
mod watched;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;
use trove_proto::{ALPN_OBJECTS, CONTROLLER_NAME, v1};

use crate::assignment::AssignmentStore;
use crate::dial::dial;
use crate::identity::Identity;
use destination::{Destination, Stream};
use watched::{Moved, Watched};

/// A body is sent in pieces of this size, of which only a few are buffered below.
const PIECE: usize = 64 << 10;
/// How long a connection that was kept may take to be ready for the next request.
const READY: Duration = Duration::from_secs(1);
/// Bytes that are read of a refusal's text.
const MOST_WORDS: u64 = 2000;
/// Characters of it that are kept.
const WORDS: usize = 200;

/// How long the client waits. Connecting has the limit of [`dial`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A request ends when nothing moved for this long.
    pub silence: Duration,
    /// Tries that fail for this long in all are the last ones of an object.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { silence: Duration::from_secs(60), patience: Duration::from_secs(600) }
    }
}

/// Why a request came to nothing. Says nothing of the grant, which is a secret.
#[derive(Debug)]
pub enum Failure {
    /// The controller would not grant the access.
    Refused(v1::Error),
    /// There was no connection: the request was not sent.
    Unreached(String),
    /// The request was sent, at least in part, and no whole answer came.
    Unanswered(String),
    /// The answer was not the one hoped for: who answered, the status and its text.
    Answered(String, StatusCode, String),
    /// The object has more bytes than were asked for: how many, where that is known.
    Larger(Option<u64>),
    /// The grant is of a kind that this agent does not know.
    Unusable(&'static str),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(out, "the controller gives no access: {}", error.message),
            Self::Unreached(reason) | Self::Unanswered(reason) => out.write_str(reason),
            Self::Answered(at, status, words) if words.is_empty() => write!(out, "{at} answers {status}"),
            Self::Answered(at, status, words) => write!(out, "{at} answers {status}: {words}"),
            Self::Larger(Some(bytes)) => write!(out, "it has {bytes} bytes, which are too many"),
            Self::Larger(None) => out.write_str("it has too many bytes"),
            Self::Unusable(what) => out.write_str(what),
        }
    }
}

impl Failure {
    /// The status of the answer.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Answered(_, status, _) => Some(*status),
            _ => None,
        }
    }

    /// Whether the request may have had its effect all the same.
    fn is_unclear(&self) -> bool {
        match self {
            Self::Unanswered(_) => true,
            Self::Answered(_, status, _) => status.is_server_error() || *status == StatusCode::REQUEST_TIMEOUT,
            _ => false,
        }
    }
}

/// A connection on which no request is under way.
struct Idle {
    to: Destination,
    at: String,
    sender: SendRequest<Pieces>,
    moved: Moved,
    _driver: AbortOnDropHandle<()>,
}

/// The client. Several jobs may use it at once.
pub struct Objects {
    identity: Identity,
    assignments: Arc<AssignmentStore>,
    /// The controllers until an assignment names others.
    first_controllers: Vec<String>,
    limits: Limits,
    kept: Mutex<Option<Idle>>,
    /// Which of the controllers is dialled: the next one after each failure.
    turn: AtomicUsize,
}

impl Objects {
    /// A client without a connection.
    pub fn new(
        identity: Identity,
        assignments: Arc<AssignmentStore>,
        first_controllers: Vec<String>,
        limits: Limits,
    ) -> Self {
        let (kept, turn) = (Mutex::default(), AtomicUsize::new(0));
        Self { identity, assignments, first_controllers, limits, kept, turn }
    }

    /// Stores an object.
    ///
    /// # Errors
    /// It is not known to be stored: [`Failure::Answered`] with 412 where an object of this name was there before.
    pub async fn put(&self, grant: &v1::ObjectGrant, bytes: Bytes) -> Result<(), Failure> {
        self.request(Method::PUT, grant, bytes, MOST_WORDS, &mut Vec::new()).await
    }

    /// Reads an object of at most `limit` bytes into a buffer, whose contents are replaced.
    ///
    /// # Errors
    /// They did not all come, or there are more.
    pub async fn get(&self, grant: &v1::ObjectGrant, limit: u64, into: &mut Vec<u8>) -> Result<(), Failure> {
        self.request(Method::GET, grant, Bytes::new(), limit, into).await
    }

    async fn request(
        &self,
        method: Method,
        grant: &v1::ObjectGrant,
        body: Bytes,
        limit: u64,
        into: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let (to, request) = build(method, grant, body)?;
        let mut idle = self.connection(to).await?;
        let moved = idle.moved.clone();
        moved.now();
        let done = tokio::select! {
            biased;
            done = exchange(&mut idle, request, limit, into) => done,
            () = moved.silence(self.limits.silence) => {
                let seconds = self.limits.silence.as_secs();
                Err(Failure::Unanswered(format!("{}: nothing was sent or received for {seconds} s", idle.at)))
            }
        };
        if matches!(done, Ok(()) | Err(Failure::Answered(..))) {
            *self.kept.lock().await = Some(idle);
        }
        if done.is_err() {
            self.turn.fetch_add(1, Ordering::Relaxed);
        }
        done
    }

    /// The connection that was kept, or a new one.
    async fn connection(&self, to: Destination) -> Result<Idle, Failure> {
        let kept = self.kept.lock().await.take();
        // Not where the server has closed it, or more of its last answer follows, which was not read.
        if let Some(mut idle) = kept.filter(|idle| idle.to == to)
            && let Ok(Ok(())) = tokio::time::timeout(READY, idle.sender.ready()).await
        {
            return Ok(idle);
        }
        let unreached = |cause: anyhow::Error| Failure::Unreached(format!("{cause:#}"));
        if let Destination::Server(server) = &to {
            let (at, stream) = (server.address(), server.connect().await.map_err(unreached)?);
            return speak(to, at, stream).await.map_err(unreached);
        }
        let mut addresses = self.assignments.assigned().borrow().specification.controllers.clone();
        if addresses.is_empty() {
            addresses.clone_from(&self.first_controllers);
        }
        let turn = self.turn.load(Ordering::Relaxed).checked_rem(addresses.len());
        let Some(at) = turn.map(|turn| addresses.swap_remove(turn)) else {
            return Err(Failure::Unusable("no controller is known"));
        };
        let connected = async {
            let stream = dial(&at, &self.identity, ALPN_OBJECTS).await?;
            speak(to, at, Box::new(stream)).await
        };
        connected.await.map_err(|cause| {
            self.turn.fetch_add(1, Ordering::Relaxed);
            unreached(cause)
        })
    }
}

/// Begins to speak HTTP.
async fn speak(to: Destination, at: String, stream: Box<dyn Stream>) -> anyhow::Result<Idle> {
    let moved = Moved::default();
    let (sender, connection) = handshake(TokioIo::new(Watched::new(stream, moved.clone()))).await?;
    let address = at.clone();
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(address, error = error.to_string(), "a connection for objects ended");
        }
    });
    Ok(Idle { to, at, sender, moved, _driver: AbortOnDropHandle::new(driver) })
}

/// Where the request goes, and the request.
fn build(method: Method, grant: &v1::ObjectGrant, body: Bytes) -> Result<(Destination, Request<Pieces>), Failure> {
    let uri: Uri =
        grant.url.parse().map_err(|_| Failure::Unusable("the controller granted an address that is none"))?;
    let to = Destination::of(grant, &uri)?;
    let unusable = || Failure::Unusable("the controller granted a header field that is none");
    let host = match &to {
        Destination::Controllers => HeaderValue::from_static(CONTROLLER_NAME),
        Destination::Server(server) => HeaderValue::from_str(&server.authority).map_err(|_| unusable())?,
    };
    let length = body.len();
    let mut request = Request::new(Pieces(body));
    if method == Method::PUT {
        // It may be signed, and is not sent by itself where there is nothing to send.
        request.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    *request.method_mut() = method;
    *request.uri_mut() = uri.path_and_query().cloned().map(Uri::from).ok_or_else(unusable)?;
    request.headers_mut().insert(HOST, host);
    for (name, value) in &grant.headers {
        let name: HeaderName = name.parse().map_err(|_| unusable())?;
        let mut value: HeaderValue = value.parse().map_err(|_| unusable())?;
        value.set_sensitive(true);
        request.headers_mut().insert(name, value);
    }
    Ok((to, request))
}

async fn exchange(idle: &mut Idle, request: Request<Pieces>, limit: u64, into: &mut Vec<u8>) -> Result<(), Failure> {
    let broken = |error: hyper::Error| {
        Failure::Unanswered(format!("{}: {:#}", idle.at, anyhow::Error::new(error).context("the connection broke")))
    };
    // S3 answers 200 where others say 201.
    let hoped_for: &[_] =
        if request.method() == Method::PUT { &[StatusCode::CREATED, StatusCode::OK] } else { &[StatusCode::OK] };
    let response = idle.sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    if !hoped_for.contains(&status) {
        let mut text = Vec::new();
        // What was read of it tells more than why no more was.
        let _ = read(response, MOST_WORDS, &mut text).await;
        return Err(Failure::Answered(idle.at.clone(), status, words(&text)));
    }
    let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length| length > limit) {
        return Err(Failure::Larger(length));
    }
    let is_whole = read(response, limit, into).await.map_err(broken)?;
    if is_whole { Ok(()) } else { Err(Failure::Larger(None)) }
}

/// Reads the body. `false`: it has more bytes than that.
async fn read(response: Response<Incoming>, limit: u64, into: &mut Vec<u8>) -> Result<bool, hyper::Error> {
    let mut body = response.into_body();
    let expected = body.size_hint().exact().unwrap_or_default().min(limit);
    into.clear();
    into.reserve(usize::try_from(expected).unwrap_or_default());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if (into.len() + data.len()) as u64 > limit {
            return Ok(false);
        }
        into.extend_from_slice(&data);
    }
    Ok(true)
}

/// The first line of a refusal, or the one word that S3 has for it, without what does not belong into a log.
fn words(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    let line = code.map_or_else(|| text.lines().next().unwrap_or_default(), |(code, _)| code);
    line.chars().filter(|c| !c.is_control()).take(WORDS).collect()
}

/// A body that is sent piece by piece, so that the connection buffers little of it.
struct Pieces(Bytes);

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.0.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.0.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}
