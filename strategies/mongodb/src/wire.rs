//! Messages of the server's protocol (MongoDB manual, "MongoDB Wire Protocol", OP_MSG) on a connection that the host has
//! verified, encrypted: where TLS is demanded it is demanded on the socket too.

use std::sync::Arc;

use bson::Document;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use trove_strategy::{EngineError, Kind};

const OP_MSG: i32 = 2013;
const HEADER_BYTES: usize = 16;
/// Flags, and the kind of the only section.
const PREFIX_BYTES: usize = 5;
/// The server sends no longer message (`maxMessageSizeBytes`).
const MESSAGE_BYTES: usize = 48_000_000;

/// A connection. Questions and answers follow one another.
pub(crate) struct Wire {
    stream: TlsStream<UnixStream>,
    sent: i32,
}

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

fn tls() -> Result<TlsConnector, EngineError> {
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
    let any = AnyCertificate(provider.signature_verification_algorithms);
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| EngineError::caused(Kind::Fatal, "set up TLS", error))?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(any)).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn lost(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> EngineError {
    EngineError::caused(Kind::Transient, "talk to the server", error)
}

impl Wire {
    /// Begins to speak on a stream whose other end is known.
    pub(crate) async fn new(stream: UnixStream) -> Result<Self, EngineError> {
        let name = ServerName::from(std::net::Ipv4Addr::LOCALHOST);
        let stream = tls()?.connect(name, stream).await.map_err(lost)?;
        Ok(Self { stream, sent: 0 })
    }

    /// Sends a command and reads its answer, which says itself whether it worked.
    pub(crate) async fn ask(&mut self, command: &Document) -> Result<Document, EngineError> {
        self.sent = self.sent.wrapping_add(1);
        let message = message(self.sent, command)?;
        self.stream.write_all(&message).await.map_err(lost)?;
        self.stream.flush().await.map_err(lost)?;
        let mut header = [0; HEADER_BYTES + PREFIX_BYTES];
        self.stream.read_exact(&mut header).await.map_err(lost)?;
        let [length, _, answers, code, flags] = [0, 4, 8, 12, 16].map(|at| number(&header, at));
        let length = usize::try_from(length).unwrap_or_default();
        let fits = (header.len()..=MESSAGE_BYTES).contains(&length);
        if !fits || answers != self.sent || code != OP_MSG || flags != 0 || header.last() != Some(&0) {
            return Err(lost("its answer is no message of its protocol"));
        }
        let mut body = vec![0; length - header.len()];
        self.stream.read_exact(&mut body).await.map_err(lost)?;
        Document::from_reader(body.as_slice()).map_err(lost)
    }
}

fn number(bytes: &[u8], at: usize) -> i32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, i32::from_le_bytes)
}

fn message(id: i32, command: &Document) -> Result<Vec<u8>, EngineError> {
    let body = command.to_vec();
    let body = body.map_err(|error| EngineError::caused(Kind::Fatal, "write a command", error))?;
    let length = HEADER_BYTES + PREFIX_BYTES + body.len();
    let length = i32::try_from(length).map_err(|error| EngineError::caused(Kind::Fatal, "write a command", error))?;
    let mut bytes: Vec<u8> = [length, id, 0, OP_MSG, 0].iter().flat_map(|number| number.to_le_bytes()).collect();
    bytes.push(0);
    bytes.extend(body);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_the_protocol_says() {
        let bytes = message(7, &bson::doc! {"ping": 1}).unwrap();
        assert_eq!(number(&bytes, 0), i32::try_from(bytes.len()).unwrap());
        assert_eq!([4, 8, 12, 16].map(|at| number(&bytes, at)), [7, 0, 2013, 0]);
        assert_eq!(Document::from_reader(&bytes[21..]).unwrap(), bson::doc! {"ping": 1});
    }
}
