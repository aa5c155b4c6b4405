//! The link to one controller: dial, TLS 1.3, and then serve on the very connection.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{debug, info, warn};
use trove_proto::ALPN_AGENT;

use crate::dial::{Backoff, dial};
use crate::service::Services;

const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(5);

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
