//! Serves objects to agents, over connections of the agents' port. A request names one object, and carries a grant for it.
//!
//! | method | answer |
//! |---|---|
//! | PUT | 201; 412 if the object is there already; 410 if nothing is written to the backup any more; 507 if the disk is full |
//! | GET | 200; 404 if there is no such object |
//! | both | 403 if the grant is not good; 400, 408, 413 if the body is another than granted or does not come; 500, 503 |
//!
//! The body of a refused PUT is read before the answer, so that the agent reads the answer.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body as _, Bytes, Frame, Incoming};
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_LENGTH, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;
use trove_proto::backup::{MANIFEST_LIMIT, SEGMENT_LIMIT};

use super::Objects;
use super::directory::{New, NotStored};
use super::grants::{Access, Granted, Refusal};
use crate::agents::{ServeObjects, Visitor};
use crate::connections::Written;
use crate::error::chain;

/// What is read of a file, or written to it, at once.
const PIECE: usize = 128 << 10;
/// Of a path that was refused so many bytes are logged.
const MOST_SHOWN: usize = 128;
/// What a connection keeps of what came in.
const BUFFER: usize = 64 << 10;
/// Time to end a request when this controller stops. The agent asks another one, or again.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

type Body = UnsyncBoxBody<Bytes, io::Error>;

#[async_trait]
impl ServeObjects for Objects {
    async fn serve_objects(&self, stream: TlsStream<TcpStream>, visitor: Visitor, shutdown: CancellationToken) {
        let instance = visitor.instance();
        let Some(_visit) = self.inner.visits.admit(instance) else {
            tracing::warn!(instance_id = %instance, "the agent of instance {instance} has too many connections for objects");
            return;
        };
        let patience = self.inner.patience;
        let (objects, visitor) = (self, &visitor);
        let service =
            service_fn(move |request| async move { Ok::<_, Infallible>(objects.answer(visitor, request).await) });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(patience.head).max_buf_size(BUFFER);
        let stream = TokioIo::new(Written::new(stream, patience.body));
        let mut connection = pin!(builder.serve_connection(stream, service));
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                timeout(SHUTDOWN_GRACE, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = served {
            tracing::debug!(instance_id = %instance, "a connection for objects broke: {}", chain(&error));
        }
    }
}

/// An answer without more to say than its reason.
fn answer(status: StatusCode, reason: &'static str) -> Response<Body> {
    let body = Full::new(Bytes::from_static(reason.as_bytes())).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// For a grant of the time before the storage was another one.
fn elsewhere() -> Response<Body> {
    answer(StatusCode::FORBIDDEN, "the backups are in another storage")
}

fn failed(attempt: &str, error: &dyn std::error::Error) -> Response<Body> {
    tracing::error!("{attempt}: {}", chain(error));
    answer(StatusCode::INTERNAL_SERVER_ERROR, "the storage failed; the service's log says why")
}

impl Objects {
    async fn answer(&self, visitor: &Visitor, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let access = match head.method {
            Method::GET => Access::Read,
            Method::PUT => Access::Write,
            _ => {
                let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, "objects are got and put");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, PUT"));
                return response;
            }
        };
        match visitor.is_current().await {
            Ok(true) => {}
            Ok(false) => {
                return self.refuse(body, StatusCode::FORBIDDEN, "the instance has a newer host, or is gone").await;
            }
            Err(error) => {
                tracing::error!("{}", chain(&error));
                return self.refuse(body, StatusCode::SERVICE_UNAVAILABLE, "the store cannot be asked").await;
            }
        }
        let authorization = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let path = head.uri.path_and_query().map_or("", |path| path.as_str());
        match self.inner.grants.verify(authorization, access, path, visitor.instance()) {
            Ok(granted) if access == Access::Read => self.get(granted).await,
            Ok(granted) => self.put(granted, body).await,
            Err(Refusal::TooMany) => {
                self.refuse(body, StatusCode::SERVICE_UNAVAILABLE, "too many grants were used in a short time").await
            }
            Err(Refusal::Forbidden(reason)) => {
                let instance = visitor.instance();
                tracing::warn!(instance_id = %instance, "the agent of instance {instance} was refused {}: {reason}", path.get(..MOST_SHOWN).unwrap_or(path));
                self.refuse(body, StatusCode::FORBIDDEN, reason).await
            }
        }
    }

    /// Reads what the agent still sends, up to the greatest object that there can be, and answers.
    async fn refuse(&self, mut body: Incoming, status: StatusCode, reason: &'static str) -> Response<Body> {
        let most = SEGMENT_LIMIT.max(MANIFEST_LIMIT);
        let announced = body.size_hint().lower();
        let read = async {
            let mut left = most;
            while let Ok(Some(Ok(frame))) = timeout(self.inner.patience.body, body.frame()).await {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                let Some(rest) = left.checked_sub(bytes) else { return };
                left = rest;
            }
        };
        if announced <= most {
            // What does not come in time is not waited for.
            let _ = timeout(self.inner.patience.request, read).await;
        }
        answer(status, reason)
    }

    async fn get(&self, granted: Granted) -> Response<Body> {
        let attempt = format!("read {}", granted.place.url());
        let Some(directory) = self.inner.storage.directory().cloned() else { return elsewhere() };
        let opened = tokio::task::spawn_blocking(move || directory.read(&granted.place)).await;
        let (file, bytes) = match opened {
            Ok(Ok(Some(opened))) => opened,
            Ok(Ok(None)) => return answer(StatusCode::NOT_FOUND, "there is no such object"),
            Ok(Err(error)) => return failed(&attempt, &error),
            Err(error) => return failed(&attempt, &error),
        };
        let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(file).take(bytes), PIECE);
        let mut response = Response::new(StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync());
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes));
        response
    }

    async fn put(&self, granted: Granted, mut body: Incoming) -> Response<Body> {
        match body.size_hint().exact() {
            Some(bytes) if bytes == granted.bytes => {}
            Some(bytes) if bytes > granted.bytes => {
                return self.refuse(body, StatusCode::PAYLOAD_TOO_LARGE, "the object is larger than granted").await;
            }
            _ => return self.refuse(body, StatusCode::BAD_REQUEST, "the object has another size than granted").await,
        }
        let attempt = format!("store {}", granted.place.url());
        let Some(directory) = self.inner.storage.directory().cloned() else { return elsewhere() };
        let begun = tokio::task::spawn_blocking(move || directory.begin(granted.place)).await;
        let stored = match begun {
            Ok(Ok((file, new))) => {
                let receiving = self.receive(&mut body, file, new, granted.bytes);
                timeout(self.inner.patience.request, receiving).await.unwrap_or(Err(NotReceived::Late))
            }
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(NotStored::Failed(io::Error::other(error)).into()),
        };
        let error = match stored {
            Ok(()) => return answer(StatusCode::CREATED, ""),
            Err(NotReceived::Late) => return answer(StatusCode::REQUEST_TIMEOUT, "the object did not come in time"),
            Err(NotReceived::Cut) => return answer(StatusCode::BAD_REQUEST, "the object did not come whole"),
            Err(NotReceived::NotStored(error)) => error,
        };
        match error {
            NotStored::Exists => {
                self.refuse(body, StatusCode::PRECONDITION_FAILED, "the object is there already").await
            }
            NotStored::Closed => self.refuse(body, StatusCode::GONE, "the backup takes no more objects").await,
            NotStored::Full => {
                tracing::error!("{attempt}: the disk is full");
                self.refuse(body, StatusCode::INSUFFICIENT_STORAGE, "the disk of the backups is full").await
            }
            NotStored::Failed(error) => {
                let response = failed(&attempt, &error);
                self.refuse(body, response.status(), "the storage failed; the service's log says why").await
            }
        }
    }

    /// Writes the body to the file, as it comes.
    async fn receive(&self, body: &mut Incoming, file: std::fs::File, new: New, bytes: u64) -> Result<(), NotReceived> {
        let stored = |error: io::Error| NotReceived::NotStored(error.into());
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(PIECE);
        let mut left = bytes;
        while let Some(frame) = timeout(self.inner.patience.body, body.frame()).await.map_err(|_| NotReceived::Late)? {
            let Ok(data) = frame.map_err(|_| NotReceived::Cut)?.into_data() else { continue };
            left = left.checked_sub(data.len() as u64).ok_or(NotReceived::Cut)?;
            file.write_all(&data).await.map_err(stored)?;
        }
        if left > 0 {
            return Err(NotReceived::Cut);
        }
        file.flush().await.map_err(stored)?;
        let file = file.into_std().await;
        // From here on it is not cut off: a request that ends now has stored the object, or not.
        let completed = tokio::task::spawn_blocking(move || new.complete(&file)).await;
        completed.map_err(|error| stored(io::Error::other(error)))?.map_err(NotReceived::NotStored)
    }
}

/// Why a body did not become an object.
enum NotReceived {
    /// It did not come in time.
    Late,
    /// The connection ended.
    Cut,
    NotStored(NotStored),
}

impl From<NotStored> for NotReceived {
    fn from(error: NotStored) -> Self {
        Self::NotStored(error)
    }
}
