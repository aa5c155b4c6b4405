//! TLS of the API itself, where no proxy does it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::error::{Error, Result};

const HANDSHAKE: Duration = Duration::from_secs(10);

/// Accepts connections that speak TLS. Handshakes happen beside one another, so that a slow one holds up nobody.
pub struct Listener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl Listener {
    /// With the certificate chain and the key of these PEM files.
    ///
    /// # Errors
    /// Internal: a file cannot be read or does not fit the other.
    pub fn new(listener: TcpListener, certificate: &Path, key: &Path) -> Result<Self> {
        let unread = |path: &Path| {
            let attempt = format!("read {} for the TLS of the API", path.display());
            move |error: rustls::pki_types::pem::Error| Error::internal(attempt, error)
        };
        let chain: std::result::Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(certificate).map_err(unread(certificate))?.collect();
        let chain = chain.map_err(unread(certificate))?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(unread(key))?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
        let mut config = config.map_err(|error| Error::internal("set up the TLS of the API", error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let address = listener.local_addr().map_err(|error| Error::internal("find the API's address", error))?;
        let (sender, ready) = mpsc::channel(64);
        tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), sender));
        Ok(Self { ready, address })
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    sender: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sender.closed() => return,
        };
        let Ok((stream, peer)) = accepted else {
            // No descriptor is left: others have to end first.
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    // The service is about to end.
                    let _ = sender.send((stream, peer)).await;
                }
                Ok(Err(error)) => tracing::debug!("{peer} does not speak TLS: {error}"),
                Err(_) => tracing::debug!("{peer} did not finish its TLS handshake"),
            }
        });
    }
}

impl axum::serve::Listener for Listener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
