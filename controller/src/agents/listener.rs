//! The agents' port: one TCP port with three protocols, chosen by ALPN. With `trove-enrol/1` the controller serves
//! enrolment. With `trove-agent/1` the agent is the gRPC server, and the hub handles the connection. With
//! `trove-objects/1` the controller serves the objects of backups.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use trove_proto::v1::enrolment_server::EnrolmentServer;

use crate::agents::enrolment::Enrolment;
use crate::agents::hub::Hub;
use crate::agents::tls::Configs;
use crate::agents::{ServeObjects, Visitor};
use crate::authority::AgentName;
use crate::connections::{ACCEPT_PAUSE, Gate, Place, Source};
use crate::error::{Result, chain};

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Time limit of an enrolment connection, which has one call.
const ENROLMENT_LIMIT: Duration = Duration::from_secs(30);
/// Greatest size of an enrolment request (a token and a certificate request), whose sender is not authenticated yet.
const ENROLMENT_LIMIT_BYTES: usize = 64 * 1024;
/// Time to store the end of all links at shutdown. The next start does the rest.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);

/// Serves agents until `shutdown`. The gate limits connections that are not authenticated yet.
///
/// # Errors
/// Internal: TLS cannot be configured, or links of the last run cannot be closed in the store.
pub async fn serve(
    hub: Arc<Hub>,
    objects: Arc<dyn ServeObjects>,
    listener: TcpListener,
    gate: Arc<Gate>,
    shutdown: CancellationToken,
) -> Result<()> {
    let configs = Arc::new(Configs::new(&hub.authorities)?);
    let left_open = hub.store.lose_own_links(&hub.controller_id).await?;
    if left_open > 0 {
        tracing::info!("{left_open} links to agents were open when this controller last ended");
    }
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection to the agents' port was not accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = gate.admit(Source::of(peer.ip())) else { continue };
        let parts = Parts { hub: Arc::clone(&hub), objects: Arc::clone(&objects), configs: Arc::clone(&configs) };
        tasks.spawn(parts.handle(stream, peer, place, shutdown.clone()));
    }
    tasks.close();
    if timeout(SHUTDOWN_LIMIT, tasks.wait()).await.is_err() {
        tracing::warn!("{} agents' connections are left at shutdown", tasks.len());
    }
    Ok(())
}

/// What connections are handed to.
struct Parts {
    hub: Arc<Hub>,
    objects: Arc<dyn ServeObjects>,
    configs: Arc<Configs>,
}

impl Parts {
    /// Handles a connection until it ends.
    async fn handle(self, stream: TcpStream, peer: SocketAddr, place: Place, shutdown: CancellationToken) {
        let given_up = place.given_up();
        let opened = tokio::select! {
            opened = timeout(HANDSHAKE_LIMIT, open(&self.configs, stream)) => opened,
            () = given_up.cancelled() => return,
            () = shutdown.cancelled() => return,
        };
        match opened {
            Ok(Ok(Opened::Enrolment(stream, bearer))) => {
                let limited = timeout(ENROLMENT_LIMIT, enrol(self.hub, stream, bearer, peer));
                tokio::select! {
                    _ = limited => {}
                    () = given_up.cancelled() => {}
                    () = shutdown.cancelled() => {}
                }
            }
            Ok(Ok(Opened::Agent(stream, name))) => {
                drop(place);
                self.hub.serve_agent(stream, name, peer, shutdown).await;
            }
            Ok(Ok(Opened::Objects(stream, name))) => {
                if self.hub.admits(name, peer).await {
                    drop(place);
                    let visitor = Visitor::new(self.hub.store.clone(), name);
                    self.objects.serve_objects(stream, visitor, shutdown).await;
                }
            }
            Ok(Err(error)) => tracing::warn!(%peer, "agent at {peer} refused: {error}"),
            Err(_) => tracing::warn!(%peer, "agent at {peer} refused: no TLS handshake in time"),
        }
    }
}

enum Opened {
    Enrolment(TlsStream<TcpStream>, Option<AgentName>),
    Agent(TlsStream<TcpStream>, AgentName),
    Objects(TlsStream<TcpStream>, AgentName),
}

async fn open(configs: &Configs, stream: TcpStream) -> io::Result<Opened> {
    stream.set_nodelay(true)?;
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    let asks_for = |protocol| hello.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == protocol));
    let (is_agent, is_objects) = (asks_for(trove_proto::ALPN_AGENT), asks_for(trove_proto::ALPN_OBJECTS));
    let config = match (is_agent, is_objects) {
        (true, _) => &configs.agent,
        (false, true) => &configs.objects,
        (false, false) => &configs.enrolment,
    };
    let stream = hello.into_stream(Arc::clone(config)).await?;
    let certificate: Option<&CertificateDer<'_>> = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let name = certificate.and_then(AgentName::read);
    if !is_agent && !is_objects {
        return Ok(Opened::Enrolment(stream, name));
    }
    let name = name.ok_or_else(|| io::Error::other("its certificate names no instance"))?;
    Ok(if is_agent { Opened::Agent(stream, name) } else { Opened::Objects(stream, name) })
}

async fn enrol(hub: Arc<Hub>, stream: TlsStream<TcpStream>, bearer: Option<AgentName>, peer: SocketAddr) {
    let enrolment = Enrolment::new(hub, bearer, peer);
    let service = EnrolmentServer::new(enrolment).max_decoding_message_size(ENROLMENT_LIMIT_BYTES);
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(Routes::new(service).prepare()))
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, "the enrolment connection of {peer} broke: {}", chain(&error));
    }
}
