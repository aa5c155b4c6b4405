//! TLS of the agents' port: the controller's certificate, and the verification of agents' certificates.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::{Authorities, certificates};
use crate::error::{Error, Result, chain};

/// TLS configurations of the protocols.
pub(crate) struct Configs {
    /// For enrolment. The client's certificate is optional and may have expired.
    pub(crate) enrolment: Arc<ServerConfig>,
    /// For agents. A valid client certificate is required.
    pub(crate) agent: Arc<ServerConfig>,
    /// For objects of backups. A valid client certificate is required.
    pub(crate) objects: Arc<ServerConfig>,
}

impl Configs {
    pub(crate) fn new(authorities: &Arc<Authorities>) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in certificates(authorities.agents_pem())? {
            roots.add(certificate).map_err(|error| Error::internal("trust the agents' authority", error))?;
        }
        let verifier = |optional: bool| {
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), Arc::clone(&provider));
            let builder = if optional { builder.allow_unauthenticated() } else { builder };
            builder.build().map_err(|error| Error::internal("build the verifier of agents", error))
        };
        let identity = Arc::new(Identity::new(Arc::clone(authorities), Arc::clone(&provider))?);
        Ok(Self {
            enrolment: config(
                &provider,
                Arc::new(LateVerifier(verifier(true)?)),
                Arc::clone(&identity),
                trove_proto::ALPN_ENROL,
            )?,
            agent: config(&provider, verifier(false)?, Arc::clone(&identity), trove_proto::ALPN_AGENT)?,
            objects: config(&provider, verifier(false)?, identity, trove_proto::ALPN_OBJECTS)?,
        })
    }
}

fn config(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ClientCertVerifier>,
    identity: Arc<Identity>,
    protocol: &[u8],
) -> Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Error::internal("configure TLS of the agents' port", error))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![protocol.to_vec()];
    // No session resumption, since the client's certificate would not be verified again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The controller's certificate. It is renewed after half of its lifetime.
struct Identity {
    authorities: Arc<Authorities>,
    provider: Arc<CryptoProvider>,
    current: Mutex<(Arc<CertifiedKey>, OffsetDateTime)>,
}

impl Identity {
    fn new(authorities: Arc<Authorities>, provider: Arc<CryptoProvider>) -> Result<Self> {
        let current = Mutex::new(Self::make(&authorities, &provider)?);
        Ok(Self { authorities, provider, current })
    }

    /// Makes a certificate. Returns it with the time of its renewal.
    fn make(authorities: &Authorities, provider: &CryptoProvider) -> Result<(Arc<CertifiedKey>, OffsetDateTime)> {
        let now = authorities.now();
        let issued = authorities.issue_controller()?;
        let key = CertifiedKey::from_der(vec![issued.certificate], issued.key, provider)
            .map_err(|error| Error::internal("load this controller's certificate", error))?;
        Ok((Arc::new(key), now + (issued.not_after - now) / 2))
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if self.authorities.now() >= current.1 {
            match Self::make(&self.authorities, &self.provider) {
                Ok(next) => *current = next,
                // The old certificate is valid for the other half. The next connection tries again.
                Err(error) => tracing::error!("this controller's certificate is not renewed: {}", chain(&error)),
            }
        }
        Some(Arc::clone(&current.0))
    }
}

/// Accepts expired certificates, so that an agent that was off for long can renew its own. The store decides whether
/// its generation is the present one.
#[derive(Debug)]
struct LateVerifier(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for LateVerifier {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        let now = expiry(end_entity).map_or(now, |expiry| now.min(expiry));
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn expiry(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
}
