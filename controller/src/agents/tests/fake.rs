//! A minimal agent for tests.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt as _, stream};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use trove_proto::v1;
use trove_proto::v1::enrolment_client::EnrolmentClient;

use super::Key;
use crate::agents::channel;
use crate::authority::certificates;

pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub(crate) async fn dial(
    address: SocketAddr,
    authority_pem: &str,
    identity: Option<Identity>,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificates(authority_pem).unwrap().remove(0)).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("controller").unwrap(), stream).await
}

/// Calls the enrolment service.
pub(super) async fn ask<T>(
    address: SocketAddr,
    authority_pem: &str,
    identity: Option<Identity>,
    call: impl AsyncFnOnce(EnrolmentClient<channel::Channel>) -> Result<Response<T>, Status>,
) -> Result<T, Status> {
    let stream = dial(address, authority_pem, identity, trove_proto::ALPN_ENROL).await.unwrap();
    let (channel, connection) = channel::open(stream, CancellationToken::new())
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let connection = tokio::spawn(connection);
    let origin = hyper::Uri::from_static("http://controller");
    let answer = call(EnrolmentClient::with_origin(channel, origin)).await.map(Response::into_inner);
    connection.abort();
    answer
}

pub(super) async fn enrol(
    address: SocketAddr,
    authority_pem: &str,
    token: &str,
    key: &Key,
) -> Result<v1::EnrolReply, Status> {
    let request = v1::EnrolRequest { token: token.to_owned(), csr_der: key.csr_der.clone() };
    ask(address, authority_pem, None, async move |mut client| client.enrol(request).await).await
}

pub(super) async fn renew(
    address: SocketAddr,
    authority_pem: &str,
    identity: Option<Identity>,
    key: &Key,
) -> Result<v1::EnrolReply, Status> {
    let request = v1::RenewRequest { csr_der: key.csr_der.clone() };
    ask(address, authority_pem, identity, async move |mut client| client.renew(request).await).await
}

/// What a job does at its n-th call.
#[derive(Clone)]
pub(super) enum Script {
    /// Reports a stage, then closes the connection.
    Die,
    /// Reports a stage, then hangs.
    Hang,
    Answer(Option<v1::Error>),
}

/// State of the agent that outlives a connection.
#[derive(Clone, Default)]
pub(super) struct Brain {
    pub(super) jobs: Arc<Mutex<Vec<v1::Start>>>,
    pub(super) script: Arc<Mutex<Vec<Script>>>,
    /// Operations whose jobs were to end.
    pub(super) cancelled: Arc<Mutex<Vec<String>>>,
    dead: Arc<Mutex<Option<tokio::sync::oneshot::Sender<()>>>>,
}

pub(super) struct FakeAgent {
    pub(super) up: mpsc::UnboundedSender<v1::WatchUp>,
    pub(super) down: mpsc::UnboundedReceiver<v1::WatchDown>,
    pub(super) connection: JoinHandle<()>,
    unwatched: Arc<Mutex<Option<UpQueue>>>,
}

impl FakeAgent {
    /// Connects, serves, and sends a Hello.
    pub(super) async fn connect(address: SocketAddr, authority_pem: &str, identity: Identity, brain: Brain) -> Self {
        let agent = Self::connect_silently(address, authority_pem, identity, brain).await;
        agent.hello();
        agent
    }

    /// Connects and serves, without a Hello.
    pub(super) async fn connect_silently(
        address: SocketAddr,
        authority_pem: &str,
        identity: Identity,
        brain: Brain,
    ) -> Self {
        let stream = dial(address, authority_pem, Some(identity), trove_proto::ALPN_AGENT).await.unwrap();
        let (up, up_queue) = mpsc::unbounded_channel();
        let (down_queue, down) = mpsc::unbounded_channel();
        let (dead, died) = tokio::sync::oneshot::channel();
        *brain.dead.lock().unwrap() = Some(dead);
        let unwatched = Arc::new(Mutex::new(Some(up_queue)));
        let watch = WatchService { up: Arc::clone(&unwatched), down: down_queue };
        let routes = Routes::new(v1::watch_server::WatchServer::new(watch))
            .add_service(v1::jobs_server::JobsServer::new(brain.clone()))
            .add_service(v1::users_server::UsersServer::new(brain.clone()))
            .add_service(v1::diagnostics_server::DiagnosticsServer::new(brain.clone()))
            .add_service(v1::assignment_server::AssignmentServer::new(brain));
        let connection = tokio::spawn(async move {
            let service = TowerToHyperService::new(routes.prepare());
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! { _ = serving => {}, Ok(()) = died => {} }
        });
        Self { up, down, connection, unwatched }
    }

    /// Whether the controller has opened Watch.
    pub(super) fn is_watched(&self) -> bool {
        self.unwatched.lock().unwrap().is_none()
    }

    pub(super) fn hello(&self) {
        self.say(v1::watch_up::Kind::Hello(v1::Hello { assignment_generation: 4, ..v1::Hello::default() }));
    }

    pub(super) fn say(&self, kind: v1::watch_up::Kind) {
        let _ = self.up.send(v1::WatchUp { kind: Some(kind) });
    }

    pub(super) fn report(&self, sequence: u64, service: v1::ServiceState) {
        let report = v1::Report { sequence, service: service.into(), volume_used_bytes: 5, ..v1::Report::default() };
        self.say(v1::watch_up::Kind::Report(report));
    }
}

type UpQueue = mpsc::UnboundedReceiver<v1::WatchUp>;

struct WatchService {
    up: Arc<Mutex<Option<UpQueue>>>,
    down: mpsc::UnboundedSender<v1::WatchDown>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait::async_trait]
impl v1::watch_server::Watch for WatchService {
    type WatchStream = Answers<v1::WatchUp>;

    async fn watch(&self, request: Request<Streaming<v1::WatchDown>>) -> Result<Response<Self::WatchStream>, Status> {
        let down = self.down.clone();
        let mut heard = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = heard.message().await {
                let _ = down.send(message);
            }
        });
        let up = self.up.lock().unwrap().take().unwrap();
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(up).map(Ok))))
    }
}

#[async_trait::async_trait]
impl v1::jobs_server::Jobs for Brain {
    type RunStream = Answers<v1::RunReply>;

    async fn run(&self, request: Request<Streaming<v1::RunRequest>>) -> Result<Response<Self::RunStream>, Status> {
        let first = request.into_inner().message().await?;
        let start = match first.and_then(|first| first.kind) {
            Some(v1::run_request::Kind::Start(start)) => start,
            Some(v1::run_request::Kind::Cancel(v1::Cancel { operation })) => {
                self.cancelled.lock().unwrap().push(operation);
                return Ok(Response::new(Box::pin(stream::empty())));
            }
            _ => return Err(Status::invalid_argument("no start")),
        };
        self.jobs.lock().unwrap().push(start);
        let next = self.script.lock().unwrap().remove(0);
        let stage = v1::Progress { stage: "stage".to_owned(), ..v1::Progress::default() };
        let stage = stream::iter([Ok(v1::RunReply { kind: Some(v1::run_reply::Kind::Progress(stage)) })]);
        let dead = Arc::clone(&self.dead);
        let end: Answers<v1::RunReply> = match next {
            Script::Hang => Box::pin(stream::pending()),
            Script::Die => Box::pin(stream::once(async move {
                let _ = dead.lock().unwrap().take().unwrap().send(());
                std::future::pending().await
            })),
            Script::Answer(error) => {
                let result = v1::run_reply::Kind::Result(v1::Result {
                    outcome: error.is_none().then(|| v1::result::Outcome::Restarted(v1::Restarted::default())),
                    error,
                });
                Box::pin(stream::iter([Ok(v1::RunReply { kind: Some(result) })]))
            }
        };
        Ok(Response::new(Box::pin(stage.chain(end))))
    }
}

#[async_trait::async_trait]
impl v1::users_server::Users for Brain {
    async fn list_users(&self, _: Request<v1::ListUsersRequest>) -> Result<Response<v1::ListUsersReply>, Status> {
        let account = v1::Account { name: "ann".to_owned(), host: "%".to_owned() };
        let users = vec![v1::User { account: Some(account), databases: vec!["shop".to_owned()] }];
        Ok(Response::new(v1::ListUsersReply { users }))
    }

    async fn get_user(&self, _: Request<v1::GetUserRequest>) -> Result<Response<v1::GetUserReply>, Status> {
        Err(Status::not_found("no such account"))
    }

    async fn get_root(&self, _: Request<v1::GetRootRequest>) -> Result<Response<v1::GetRootReply>, Status> {
        Err(Status::failed_precondition("the engine does not run"))
    }
}

#[async_trait::async_trait]
impl v1::diagnostics_server::Diagnostics for Brain {
    async fn ping(&self, _: Request<v1::PingRequest>) -> Result<Response<v1::PingReply>, Status> {
        Ok(Response::new(v1::PingReply {}))
    }

    async fn get_diagnostics(
        &self,
        _: Request<v1::GetDiagnosticsRequest>,
    ) -> Result<Response<v1::GetDiagnosticsReply>, Status> {
        Err(Status::failed_precondition("there is no proc(5) here"))
    }
}

#[async_trait::async_trait]
impl v1::assignment_server::Assignment for Brain {
    async fn assign(&self, request: Request<v1::AssignRequest>) -> Result<Response<v1::AssignReply>, Status> {
        let request = request.into_inner();
        let fenced = v1::Error { kind: v1::ErrorKind::Fenced.into(), message: "an older fence".to_owned() };
        let error = (request.fence < 10).then_some(fenced);
        Ok(Response::new(v1::AssignReply { generation: request.generation, error, parameters: Vec::new() }))
    }
}
