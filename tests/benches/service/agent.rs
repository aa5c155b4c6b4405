//! A simulated agent: a real connection with its own certificate, with the messages of a real agent, but without an
//! engine.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use trove_proto::v1;
use trove_proto::v1::{watch_down, watch_up};

/// Interval of heartbeats; the default of the configuration.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);
/// Names of the metrics that an agent of PostgreSQL reports.
const METRICS: [&str; 9] = [
    "connections",
    "connections_max",
    "commits_total",
    "rollbacks_total",
    "blocks_read_total",
    "blocks_hit_total",
    "rows_returned_total",
    "deadlocks_total",
    "database_bytes",
];

/// Counts of all agents together.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Connections whose first report was acknowledged.
    pub(crate) up: AtomicUsize,
    /// Acknowledged reports.
    pub(crate) heard: AtomicUsize,
    /// Reports without an acknowledgement when the next one was due.
    pub(crate) missed: AtomicUsize,
    /// Connections that could not be made or have ended.
    pub(crate) lost: AtomicUsize,
}

/// Permit to connect; only a few agents connect at the same time.
pub(crate) type Turn = OwnedSemaphorePermit;

/// Runs one connection until it ends, which it should not. `turn` is released after the acknowledgement of the first
/// report.
pub(crate) async fn run(address: SocketAddr, tls: Arc<ClientConfig>, seen: Arc<Seen>, turn: Turn) -> Result<()> {
    let ended = serve(address, tls, Agent { seen: seen.clone(), turn: Mutex::new(Some(turn)) }).await;
    seen.lost.fetch_add(1, Ordering::Relaxed);
    ended
}

async fn serve(address: SocketAddr, tls: Arc<ClientConfig>, agent: Agent) -> Result<()> {
    let stream = TcpStream::connect(address).await.context("connect")?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(trove_proto::CONTROLLER_NAME)?;
    let stream = TlsConnector::from(tls).connect(name, stream).await.context("speak TLS")?;
    let routes = Routes::new(v1::watch_server::WatchServer::new(agent))
        .add_service(v1::assignment_server::AssignmentServer::new(Assigned));
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(HEARTBEAT).keep_alive_timeout(Duration::from_secs(5));
    builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes.prepare())).await.context("serve")
}

struct Agent {
    seen: Arc<Seen>,
    turn: Mutex<Option<Turn>>,
}

type Up = mpsc::Sender<Result<v1::WatchUp, Status>>;

#[async_trait]
impl v1::watch_server::Watch for Agent {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchUp, Status>> + Send>>;

    async fn watch(&self, request: Request<Streaming<v1::WatchDown>>) -> Result<Response<Self::WatchStream>, Status> {
        let (up, queue) = mpsc::channel(16);
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner).take();
        tokio::spawn(speak(request.into_inner(), up, self.seen.clone(), turn));
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

async fn say(up: &Up, kind: watch_up::Kind) -> bool {
    up.send(Ok(v1::WatchUp { kind: Some(kind) })).await.is_ok()
}

async fn speak(mut down: Streaming<v1::WatchDown>, up: Up, seen: Arc<Seen>, mut turn: Option<Turn>) {
    let hello = v1::Hello { datastore: "postgresql".to_owned(), assignment_generation: 1, ..v1::Hello::default() };
    if !say(&up, watch_up::Kind::Hello(hello)).await {
        return;
    }
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sequence, mut heard) = (0, 0);
    loop {
        tokio::select! {
            _ = heartbeat.tick() => {
                if heard < sequence {
                    seen.missed.fetch_add(1, Ordering::Relaxed);
                }
                sequence += 1;
                if !say(&up, watch_up::Kind::Report(report(sequence))).await { return }
            }
            message = down.next() => match message {
                Some(Ok(v1::WatchDown { kind: Some(watch_down::Kind::Acknowledgement(answer)) })) => {
                    heard = answer.sequence;
                    seen.heard.fetch_add(1, Ordering::Relaxed);
                    if turn.take().is_some() {
                        seen.up.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
        }
    }
}

/// A report of a healthy engine with a small load, whose metrics change with each report.
#[allow(clippy::cast_precision_loss)]
fn report(sequence: u64) -> v1::Report {
    let metric = |name: &str| v1::Metric { name: name.to_owned(), value: sequence as f64 };
    v1::Report {
        sequence,
        service: v1::ServiceState::Healthy.into(),
        role: v1::Role::Primary.into(),
        position: format!("0/{sequence:X}"),
        volume_used_bytes: (40 << 20) + sequence * 8192,
        memory_used_bytes: (30 << 20) + sequence * 4096,
        engine_version: "15.18".to_owned(),
        metrics: METRICS.into_iter().map(metric).collect(),
        assignment_generation: 1,
        ..v1::Report::default()
    }
}

struct Assigned;

#[async_trait]
impl v1::assignment_server::Assignment for Assigned {
    async fn assign(&self, request: Request<v1::AssignRequest>) -> Result<Response<v1::AssignReply>, Status> {
        Ok(Response::new(v1::AssignReply {
            generation: request.into_inner().generation,
            error: None,
            parameters: Vec::new(),
        }))
    }
}
