//! Enrolment: exchanges a single-use token, or an expired certificate, for a new certificate.

#![allow(clippy::disallowed_methods, reason = "the token lies in a directory of the agent alone")]

use anyhow::{Context, Result};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tracing::error;
use trove_proto::v1::enrolment_client::EnrolmentClient;
use trove_proto::{ALPN_ENROL, v1};

use crate::dial::{Backoff, dial};
use crate::identity::Identity;

/// Asks the controllers, one after the other, for a certificate: the first one, or a new one after the old one expired.
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
    // The status holds the controller's message and none of the agent's secrets.
    let reply = reply.map_err(|status| anyhow::anyhow!("{:?}: {}", status.code(), status.message()));
    let reply = reply.with_context(|| format!("enrol at {address}"))?.into_inner();
    identity.accept(&reply.certificate_pem, &reply.authority_pem)
}

/// Enrols if the agent has no certificate (at its first start, or after the file was damaged), and removes the used
/// token. Retries until it succeeds: the engine runs meanwhile, and a token may still arrive.
pub async fn enrol_once(controllers: &[String], identity: &Identity, token_file: &std::path::Path) -> Result<()> {
    let mut backoff = Backoff::new(rand::random::<u64>());
    let mut told = String::new();
    while identity.validity()?.is_none() {
        let tried = match std::fs::read_to_string(token_file) {
            Ok(token) => enrol(controllers, identity, Some(token.trim())).await,
            Err(error) => Err(without_token(identity, token_file, error)),
        };
        if let Err(cause) = tried {
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

fn without_token(identity: &Identity, token_file: &std::path::Path, error: std::io::Error) -> anyhow::Error {
    let attempt = format!("read the enrolment token {}", token_file.display());
    let failed = anyhow::Error::new(error).context(attempt);
    if identity.was_damaged() {
        return failed
            .context("the agent's certificate was damaged and set aside; a token will come, with a reboot at once");
    }
    failed
}
