//! Connections to controllers. The agent dials, and then is the gRPC server on that connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{debug, error, info, warn};

use crate::dial::Backoff;
use crate::service::Services;

const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(5);
/// A controller calls at once after the handshake. HTTP/2 sends no PING before the first frame of the peer, so without
/// this limit the agent would notice a controller that vanished just then only at TCP's timeout, after a quarter of an
/// hour.
const FIRST_CALL: Duration = Duration::from_secs(15);

/// Keeps one connection to each controller that the assignment names. `dial` connects to an address.
pub async fn keep_all<D, C, S>(services: Arc<Services>, dial: D)
where
    D: Fn(String) -> C + Clone + Send + Sync + 'static,
    C: Future<Output = Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut assigned = services.assignments.assigned();
    let mut links: BTreeMap<String, CancellationToken> = BTreeMap::new();
    loop {
        let mut wanted = assigned.borrow_and_update().specification.controllers.clone();
        if wanted.is_empty() {
            wanted.clone_from(&services.first_controllers);
        }
        links.retain(|address, cancel| {
            let keep = wanted.contains(address);
            if !keep {
                cancel.cancel();
            }
            keep
        });
        for address in wanted {
            links.entry(address.clone()).or_insert_with(|| {
                let cancel = CancellationToken::new();
                tokio::spawn(keep(address, services.clone(), dial.clone(), cancel.clone()));
                cancel
            });
        }
        if assigned.changed().await.is_err() {
            error!("the assignment is gone");
            return;
        }
    }
}

/// Keeps a connection to one controller, and reconnects, until it is cancelled.
async fn keep<D, C, S>(address: String, services: Arc<Services>, dial: D, cancel: CancellationToken)
where
    D: Fn(String) -> C,
    C: Future<Output = Result<S>>,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut backoff = Backoff::new((&services.boot_id, &address));
    let mut told = false;
    loop {
        let attempt = async {
            let stream = dial(address.clone()).await?;
            serve(stream, &address, &services, &mut backoff).await
        };
        let attempt = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            attempt = attempt => attempt,
        };
        match attempt {
            Ok(()) => {
                told = false;
                debug!(address, "the connection ended");
            }
            // Warn once per outage, not at every try.
            Err(error) if told => debug!(address, error = format!("{error:#}"), "no connection"),
            Err(error) => {
                told = true;
                warn!(address, error = format!("{error:#}"), "no connection; trying on");
            }
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

/// Serves one connection until it ends.
async fn serve<S>(stream: S, address: &str, services: &Arc<Services>, backoff: &mut Backoff) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (routes, called) = services.routes();
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PONG);
    let service = TowerToHyperService::new(Routes::prepare(routes));
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    // In TLS 1.3 an agent learns only after its own half of the handshake whether it was refused. So it counts as
    // connected from the controller's first call on.
    tokio::select! {
        biased;
        () = called.notified() => {
            info!(address, "connected");
            backoff.reset();
        }
        ended = &mut serving => {
            ended.context("the controller ended the connection before its first call")?;
            bail!("the controller ended the connection before its first call");
        }
        () = tokio::time::sleep(FIRST_CALL) => bail!("the controller did not call within {} s", FIRST_CALL.as_secs()),
    }
    serving.await.context("serve the connection")
}
