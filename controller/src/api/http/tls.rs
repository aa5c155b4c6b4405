//! TLS of the API itself, where no proxy does it.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::error::{Error, Result};

/// Speaks TLS with the certificate chain and the key of these PEM files.
///
/// # Errors
/// Internal: a file cannot be read or does not fit the other.
pub fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor> {
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
    Ok(TlsAcceptor::from(Arc::new(config)))
}
