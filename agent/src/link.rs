//! The link to one controller: dial, TLS 1.3, and then serve on the very connection.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{debug, error, info, warn};
use trove_proto::v1::enrolment_client::EnrolmentClient;
use trove_proto::{ALPN_AGENT, ALPN_ENROL, CONTROLLER_NAME, v1};

use crate::identity::Identity;
use crate::service::Services;

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(10);
const DIAL: Duration = Duration::from_secs(10);
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(5);

/// Delays between tries: doubling, with full jitter, so that agents of a controller that comes back do not all come at
/// once.
pub struct Backoff {
    ceiling: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { ceiling: FIRST_DELAY }
    }
}

impl Backoff {
    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.ceiling.mul_f64(rand::random::<f64>());
        self.ceiling = (self.ceiling * 2).min(LAST_DELAY);
        delay
    }

    /// Back to the shortest.
    pub fn reset(&mut self) {
        self.ceiling = FIRST_DELAY;
    }
}

async fn dial(address: &str, identity: &Identity, alpn: &[u8]) -> Result<TlsStream<TcpStream>> {
    let config = identity.client(alpn)?;
    let all = async {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true).context("set up the connection")?;
        let name = ServerName::try_from(CONTROLLER_NAME).context("the controller's name")?;
        let connected = TlsConnector::from(config).connect(name, stream).await;
        connected.with_context(|| format!("speak TLS with {address}"))
    };
    tokio::time::timeout(DIAL, all).await.with_context(|| format!("{address} did not answer within 10 s"))?
}

/// Asks one of the controllers for the first certificate, or for another when the present one has expired.
pub async fn enrol(controllers: &[String], identity: &Identity, token: Option<&str>) -> Result<()> {
    let mut last = None;
    for address in controllers {
        match enrol_at(address, identity, token).await {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("no controller is known")))
}

async fn enrol_at(address: &str, identity: &Identity, token: Option<&str>) -> Result<()> {
    let csr_der = identity.request()?;
    let stream = dial(address, identity, ALPN_ENROL).await?;
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.context("speak HTTP/2")?;
    let driver = tokio::spawn(connection);
    let service = tower::service_fn(move |request: http::Request<tonic::body::Body>| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let mut client = EnrolmentClient::with_origin(service, http::Uri::from_static("http://controller"));
    let reply = match token {
        Some(token) => client.enrol(v1::EnrolRequest { token: token.to_owned(), csr_der }).await,
        None => client.renew(v1::RenewRequest { csr_der }).await,
    };
    driver.abort();
    // A status carries the controller's sentence and no secret of ours.
    let reply = reply.map_err(|status| anyhow::anyhow!("{:?}: {}", status.code(), status.message()));
    let reply = reply.with_context(|| format!("enrol at {address}"))?.into_inner();
    identity.accept(&reply.certificate_pem, &reply.authority_pem)
}

/// Keeps a connection to one controller until it is cancelled.
pub async fn keep(address: String, services: Arc<Services>, cancel: CancellationToken) {
    let mut backoff = Backoff::default();
    let mut told = false;
    loop {
        let attempt = tokio::select! {
            attempt = once(&address, &services, &mut backoff) => attempt,
            () = cancel.cancelled() => return,
        };
        match attempt {
            Ok(()) => {
                told = false;
                debug!(address, "the connection ended");
            }
            // A controller that is away is nothing to repeat at every try.
            Err(error) if told => debug!(address, error = format!("{error:#}"), "no connection"),
            Err(error) => {
                told = true;
                warn!(address, error = format!("{error:#}"), "no connection; trying on");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_delay()) => {}
            () = cancel.cancelled() => return,
        }
    }
}

async fn once(address: &str, services: &Arc<Services>, backoff: &mut Backoff) -> Result<()> {
    services.renew_when_expired().await?;
    let stream = dial(address, &services.identity, ALPN_AGENT).await?;
    let (routes, called) = services.routes();
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PONG);
    let service = TowerToHyperService::new(Routes::prepare(routes));
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    // A refused agent learns of it only after its own half of the handshake: "connected" is the first call.
    tokio::select! {
        ended = &mut serving => {
            ended.context("the controller ended the connection before its first call")?;
            bail!("the controller ended the connection before its first call");
        }
        () = called.notified() => {
            info!(address, "connected");
            backoff.reset();
        }
    }
    serving.await.context("serve the connection")
}

/// Enrols at the first start and removes the token that was used. Tries on until it succeeds.
pub async fn enrol_once(controllers: &[String], identity: &Identity, token_file: &std::path::Path) -> Result<()> {
    let mut backoff = Backoff::default();
    let mut told = String::new();
    while identity.validity()?.is_none() {
        let token = std::fs::read_to_string(token_file);
        let token = token.with_context(|| format!("read the enrolment token {}", token_file.display()))?;
        if let Err(cause) = enrol(controllers, identity, Some(token.trim())).await {
            let text = format!("{cause:#}");
            if text != told {
                error!(error = text, "cannot enrol; trying on");
                told = text;
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
    match std::fs::remove_file(token_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove the used token {}", token_file.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_their_cap_and_begin_anew() {
        let mut backoff = Backoff::default();
        for _ in 0..20 {
            assert!(backoff.next_delay() <= LAST_DELAY);
        }
        assert_eq!(backoff.ceiling, LAST_DELAY);
        backoff.reset();
        assert!(backoff.next_delay() <= FIRST_DELAY);
    }
}
