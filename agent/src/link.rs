//! The links to the controllers: dial, and then serve on the very connection.

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
/// A controller calls at once. Until it has spoken there is no PING: without a limit, one that vanished in this very
/// moment would be waited for until TCP gives it up, which takes a quarter of an hour.
const FIRST_CALL: Duration = Duration::from_secs(15);

/// Keeps one link to each controller of the assignment, for as long as it is in it. `dial` connects to an address.
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

/// Keeps a connection to one controller until it is cancelled.
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
            // A controller that is away is nothing to repeat at every try.
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
    // A refused agent learns of it only after its own half of the handshake: "connected" is the first call.
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
