//! A gRPC channel over a connection that the agent has opened. The agent is the gRPC server.

use std::future::Future;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use trove_proto::v1::assignment_client::AssignmentClient;
use trove_proto::v1::databases_client::DatabasesClient;
use trove_proto::v1::diagnostics_client::DiagnosticsClient;
use trove_proto::v1::jobs_client::JobsClient;
use trove_proto::v1::logs_client::LogsClient;
use trove_proto::v1::parameters_client::ParametersClient;
use trove_proto::v1::sizes_client::SizesClient;
use trove_proto::v1::users_client::UsersClient;
use trove_proto::v1::watch_client::WatchClient;

/// A dead peer is noticed after this interval plus the limit for the PONG.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_LIMIT: Duration = Duration::from_secs(5);
/// Greatest size of an answer. Large, since an instance may have tens of thousands of databases or accounts.
const ANSWER_LIMIT_BYTES: usize = 32 * 1024 * 1024;
/// Greatest size of a report, which has a few texts and some hundred numbers.
const REPORT_LIMIT_BYTES: usize = 256 * 1024;
/// Greatest size of a job's progress or result.
const JOB_LIMIT_BYTES: usize = 1024 * 1024;

/// Sends gRPC calls on one connection. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Channel(SendRequest<Body>);

/// An executor whose tasks end when the connection is cut. Otherwise hyper would keep the connection while a call is in
/// progress.
#[derive(Clone)]
pub(crate) struct UntilCut(CancellationToken);

impl<F> hyper::rt::Executor<F> for UntilCut
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        tokio::spawn(self.0.clone().run_until_cancelled_owned(future));
    }
}

/// Opens HTTP/2 as the client. The returned future drives the connection: it must be polled, and resolves when the
/// connection has ended. `cut` ends the connection and all its calls.
pub(crate) async fn open<S>(
    stream: S,
    cut: CancellationToken,
) -> hyper::Result<(Channel, Connection<TokioIo<S>, Body, UntilCut>)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (send, connection) = Builder::new(UntilCut(cut))
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_LIMIT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await?;
    Ok((Channel(send), connection))
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, hyper::Result<Response<Incoming>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.send_request(request).boxed()
    }
}

impl Channel {
    pub(crate) fn watch(&self) -> WatchClient<Self> {
        WatchClient::with_origin(self.clone(), origin()).max_decoding_message_size(REPORT_LIMIT_BYTES)
    }

    pub(crate) fn jobs(&self) -> JobsClient<Self> {
        JobsClient::with_origin(self.clone(), origin()).max_decoding_message_size(JOB_LIMIT_BYTES)
    }

    pub(crate) fn logs(&self) -> LogsClient<Self> {
        LogsClient::with_origin(self.clone(), origin()).max_decoding_message_size(REPORT_LIMIT_BYTES)
    }

    pub(crate) fn assignment(&self) -> AssignmentClient<Self> {
        AssignmentClient::with_origin(self.clone(), origin())
    }

    pub(crate) fn databases(&self) -> DatabasesClient<Self> {
        DatabasesClient::with_origin(self.clone(), origin()).max_decoding_message_size(ANSWER_LIMIT_BYTES)
    }

    pub(crate) fn users(&self) -> UsersClient<Self> {
        UsersClient::with_origin(self.clone(), origin()).max_decoding_message_size(ANSWER_LIMIT_BYTES)
    }

    pub(crate) fn sizes(&self) -> SizesClient<Self> {
        SizesClient::with_origin(self.clone(), origin())
    }

    pub(crate) fn parameters(&self) -> ParametersClient<Self> {
        ParametersClient::with_origin(self.clone(), origin()).max_decoding_message_size(ANSWER_LIMIT_BYTES)
    }

    pub(crate) fn diagnostics(&self) -> DiagnosticsClient<Self> {
        DiagnosticsClient::with_origin(self.clone(), origin())
    }
}

/// A dummy host, which HTTP requires; the connection has only one.
fn origin() -> Uri {
    Uri::from_static("http://agent")
}
