//! TLS to the private socket: where it is demanded it is demanded there too, and the driver speaks none over a socket.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use trove_strategy::{EngineError, Kind};

/// The certificate tells nothing here: the kernel says which process listens, and the server shows by SCRAM that it knows the
/// password. Signatures are looked at as always.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

fn connector() -> Result<TlsConnector, EngineError> {
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
    let any = AnyCertificate(provider.signature_verification_algorithms);
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| EngineError::caused(Kind::Fatal, "set up TLS", error))?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(any)).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Encrypts a stream whose other end is known.
pub(crate) async fn encrypt(stream: UnixStream) -> Result<TlsStream<UnixStream>, EngineError> {
    let name = ServerName::from(std::net::Ipv4Addr::LOCALHOST);
    let encrypted = connector()?.connect(name, stream).await;
    encrypted.map_err(|error| EngineError::caused(Kind::Transient, "talk to the server", error))
}
