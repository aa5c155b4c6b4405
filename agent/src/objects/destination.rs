//! Where a request for an object goes: to any of the controllers, or to the one server that the grant names.

use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, ensure};
use http::Uri;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use trove_proto::v1;

use super::Failure;
use crate::dial::LIMIT;
use crate::identity::certificates;

/// A connection, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Who answers a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// Any of the controllers, on the agents' port.
    Controllers,
    /// A server outside of them.
    Server(Server),
}

/// A server that knows nothing of agents: what lets one in is in the address and the header fields of the grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// As the address names it, which is what `Host` must say.
    pub(super) authority: String,
    host: String,
    port: u16,
    /// Whose certificates are trusted, if it speaks TLS; empty: the system's authorities'.
    authorities_pem: Option<String>,
}

impl Destination {
    /// Where the grant's address leads.
    ///
    /// # Errors
    /// Unusable: it is no address of an object.
    pub(super) fn of(grant: &v1::ObjectGrant, uri: &Uri) -> std::result::Result<Self, Failure> {
        let unusable = Failure::Unusable("the controller granted an address that is none of an object");
        if !uri.path().starts_with('/') || uri.path().starts_with("//") {
            return Err(unusable);
        }
        let (scheme, authority) = match (uri.scheme_str(), uri.authority()) {
            (None, None) => return Ok(Self::Controllers),
            (Some(scheme), Some(authority)) => (scheme, authority),
            _ => return Err(unusable),
        };
        // In clear only where the operator has configured it so.
        let (usual, authorities_pem) = match scheme {
            "https" => (443, Some(grant.authorities_pem.clone())),
            "http" => (80, None),
            _ => return Err(unusable),
        };
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(unusable);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(usual);
        Ok(Self::Server(Server { authority: authority.as_str().to_owned(), host, port, authorities_pem }))
    }
}

impl Server {
    /// Its host and port.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Connects, and checks the server's certificate if it speaks TLS.
    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>> {
        let address = self.address();
        let all = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
            let stream = stream.with_context(|| format!("connect to {address}"))?;
            stream.set_nodelay(true).context("set up the connection")?;
            let Some(authorities) = &self.authorities_pem else { return Ok(Box::new(stream) as Box<dyn Stream>) };
            let name = ServerName::try_from(self.host.clone()).with_context(|| format!("{} is no name", self.host))?;
            let config = if authorities.is_empty() { system()? } else { trusting(authorities)? };
            let connected = TlsConnector::from(config).connect(name, stream).await;
            Ok(Box::new(connected.with_context(|| format!("speak TLS with {address}"))?) as Box<dyn Stream>)
        };
        tokio::time::timeout(LIMIT, all).await.with_context(|| format!("{address} did not answer within 10 s"))?
    }
}

/// Trusts these authorities alone.
fn trusting(pem: &str) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem.as_bytes()).context("read the authorities of the storage")? {
        roots.add(certificate).context("trust an authority of the storage")?;
    }
    Ok(with(roots))
}

/// Trusts the authorities that the system trusts, as they were when they were first asked for.
fn system() -> Result<Arc<ClientConfig>> {
    static KNOWN: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known.clone());
    }
    let mut roots = RootCertStore::empty();
    // One that cannot be read is no reason to trust none of the others.
    let (trusted, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    ensure!(trusted > 0, "this system trusts no authority: is the package ca-certificates installed?");
    Ok(KNOWN.get_or_init(|| with(roots)).clone())
}

fn with(roots: RootCertStore) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> std::result::Result<Destination, Failure> {
        let grant =
            v1::ObjectGrant { url: url.to_owned(), authorities_pem: "pem".to_owned(), ..v1::ObjectGrant::default() };
        Destination::of(&grant, &url.parse().unwrap())
    }

    #[test]
    fn an_address_leads_to_the_controllers_or_to_the_server_that_it_names() {
        assert_eq!(of("/objects/b/r/00000000").unwrap(), Destination::Controllers);
        for (url, authority, address, pem) in [
            ("https://s3.example.org/b/o?x=1", "s3.example.org", "s3.example.org:443", Some("pem")),
            ("https://s3.example.org:9000/b/o", "s3.example.org:9000", "s3.example.org:9000", Some("pem")),
            ("http://[::1]:8080/v1/a/c/o", "[::1]:8080", "::1:8080", None),
            ("http://swift/v1/a/c/o", "swift", "swift:80", None),
        ] {
            let Destination::Server(server) = of(url).unwrap() else { panic!("{url}") };
            assert_eq!((server.authority.as_str(), server.address().as_str()), (authority, address));
            assert_eq!(server.authorities_pem.as_deref(), pem, "{url}");
        }
        for url in ["ftp://s3/o", "https://user@s3/o", "//s3/o", "s3", "https://s3//o"] {
            assert!(of(url).is_err(), "{url}");
        }
    }
}
