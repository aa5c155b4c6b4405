//! The two certificate authorities: one for agents and controllers, one for engines. Their keys are stored encrypted.
//! Tenants trust only the second, and agents and controllers only the first, so an engine's certificate is of no use
//! towards them.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject,
};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::model::EngineCertificate;
use crate::store::Store;
use crate::store::authorities::StoredAuthority;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Lifetime of the authorities' own certificates.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Lifetime of an engine's certificate: the longest that common clients accept.
const ENGINE_LIFETIME: Duration = Duration::from_secs(397 * 24 * 3600);
/// Certificates are valid from this long before they are made, for machines whose clock is slow.
const BACKDATED: Duration = DAY;
/// Prefix of the URI in an agent's certificate; `<instance>/<generation>` follows.
const AGENT_URI: &str = "trove://instance/";

/// Both authorities with their keys.
pub struct Authorities {
    agents: Authority,
    engines: Authority,
    /// Its clock is used for the validity of certificates instead of this machine's.
    store: Store,
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Certificate and key for a controller's agents' port.
pub struct ControllerCertificate {
    /// DER.
    pub certificate: CertificateDer<'static>,
    /// PKCS#8.
    pub key: PrivateKeyDer<'static>,
    pub not_after: OffsetDateTime,
}

/// A certificate request of an agent with a verified signature. Only its public key is used.
pub struct CertificateRequest(CertificateSigningRequestParams);

impl CertificateRequest {
    /// Parses a PKCS#10 request.
    ///
    /// # Errors
    /// 400 if it cannot be parsed or is not signed by its own key.
    pub fn parse(der: &[u8]) -> Result<Self> {
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map(Self)
            .map_err(|error| Error::BadRequest(format!("The certificate request cannot be read: {error}.")))
    }

    /// SHA-256 of the public key, hexadecimal.
    pub fn key_hash(&self) -> String {
        hex::encode(Sha256::digest(self.0.public_key.der_bytes()))
    }
}

/// The name in an agent's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentName {
    pub instance: InstanceId,
    /// Generation of its host.
    pub generation: u64,
}

impl AgentName {
    /// Reads the name in a certificate. Does not verify the certificate.
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => Self::parse(uri),
            _ => None,
        })
    }

    fn parse(uri: &str) -> Option<Self> {
        let (instance, generation) = uri.strip_prefix(AGENT_URI)?.split_once('/')?;
        Some(Self { instance: instance.parse().ok()?, generation: generation.parse().ok()? })
    }

    fn uri(self) -> String {
        format!("{AGENT_URI}{}/{}", self.instance, self.generation)
    }
}

impl Authorities {
    /// Loads the authorities, or makes them at the first start. Two controllers that start at once get the same pair.
    ///
    /// # Errors
    /// Internal: the store failed, or the keys were encrypted with another key than the configured one.
    pub async fn load(store: &Store) -> Result<Self> {
        let (agents, engines) = (Authority::load(store, "agents").await?, Authority::load(store, "engines").await?);
        Ok(Self { agents, engines, store: store.clone() })
    }

    /// The time used for the validity of certificates.
    pub fn now(&self) -> OffsetDateTime {
        self.store.now()
    }

    /// Certificate of the authority of controllers and agents, PEM.
    pub fn agents_pem(&self) -> &str {
        &self.agents.pem
    }

    /// Certificate of the engines' authority, which tenants trust, PEM.
    pub fn engines_pem(&self) -> &str {
        &self.engines.pem
    }

    /// Signs a certificate for an agent, with the URI SAN `trove://instance/<id>/<generation>`. Returns PEM.
    pub fn sign_agent(&self, request: &CertificateRequest, name: AgentName, lifetime: Duration) -> Result<String> {
        let attempt = || format!("sign the agent of instance {}", name.instance);
        let (mut params, _) = leaf(self.now(), &name.instance.to_string(), lifetime);
        let uri = name.uri().try_into().map_err(|error: rcgen::Error| Error::internal(attempt(), error))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params
            .signed_by(&request.0.public_key, &self.agents.issuer)
            .map(|certificate| certificate.pem())
            .map_err(|error| Error::internal(attempt(), error))
    }

    /// Makes a key and a certificate for an engine. The SANs are its addresses and the instance's id.
    pub fn issue_engine(&self, instance: InstanceId, addresses: &[IpAddr]) -> Result<EngineCertificate> {
        let failed = |error: rcgen::Error| Error::internal(format!("sign the engine of instance {instance}"), error);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let name = instance.to_string();
        let (mut params, not_after) = leaf(self.now(), &name, ENGINE_LIFETIME);
        params.subject_alt_names = addresses.iter().copied().map(SanType::IpAddress).collect();
        params.subject_alt_names.push(SanType::DnsName(name.try_into().map_err(failed)?));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.engines.issuer).map_err(failed)?;
        Ok(EngineCertificate {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem().into(),
            authority_pem: self.engines.pem.clone(),
            not_after,
        })
    }

    /// Makes a key and a certificate, valid for one day, for this controller's agents' port. They are never stored.
    pub fn issue_controller(&self) -> Result<ControllerCertificate> {
        let failed = |error: rcgen::Error| Error::internal("sign this controller", error);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let (mut params, not_after) = leaf(self.now(), trove_proto::CONTROLLER_NAME, DAY);
        let name = trove_proto::CONTROLLER_NAME.to_owned().try_into().map_err(failed)?;
        params.subject_alt_names = vec![SanType::DnsName(name)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.agents.issuer).map_err(failed)?;
        Ok(ControllerCertificate {
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            not_after,
        })
    }
}

impl Authority {
    async fn load(store: &Store, name: &str) -> Result<Self> {
        if store.get_authority(name).await?.is_none() {
            store.insert_authority(name, &Self::make(name, store.now())?).await?;
        }
        // Read it back, since another controller may have stored one first.
        let stored = store
            .get_authority(name)
            .await?
            .ok_or_else(|| Error::Internal { attempt: format!("read back the authority {name}"), source: None })?;
        let failed = |error: rcgen::Error| Error::internal(format!("load the authority {name}"), error);
        let key = KeyPair::from_pem(stored.key_pem.expose_secret()).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&stored.certificate_pem, key).map_err(failed)?;
        Ok(Self { pem: stored.certificate_pem, issuer })
    }

    fn make(name: &str, now: OffsetDateTime) -> Result<StoredAuthority> {
        let failed = |error: rcgen::Error| Error::internal(format!("make the authority {name}"), error);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let (mut params, _) = leaf(now, &format!("trove-rs {name}"), AUTHORITY_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(StoredAuthority { certificate_pem: certificate.pem(), key_pem: key.serialize_pem().into() })
    }
}

/// The parameters that all certificates have in common, and the time at which this one expires.
fn leaf(now: OffsetDateTime, common_name: &str, lifetime: Duration) -> (CertificateParams, OffsetDateTime) {
    let not_after = now + lifetime;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = now - BACKDATED;
    params.not_after = not_after;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    (params, not_after)
}

/// Parses the certificates in a PEM text.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::internal("read certificates", error))
}

#[cfg(test)]
mod tests {

    use super::*;

    async fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = crate::testing::store::open(directory.path(), 3).await;
        (directory, store)
    }

    #[tokio::test]
    async fn controllers_that_start_at_once_end_up_with_the_same_pair() {
        let (directory, store) = store().await;
        let other = crate::testing::store::open(directory.path(), 3).await;
        let (one, two) = tokio::join!(Authorities::load(&store), Authorities::load(&other));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one.agents_pem(), two.agents_pem());
        assert_eq!(one.engines_pem(), two.engines_pem());
        assert_ne!(one.agents_pem(), one.engines_pem());
        let stored = store.number("select count(*) from authority where sealed_key like '%PRIVATE%'").await;
        assert_eq!(stored, 0, "keys are sealed");
        let foreign = crate::testing::store::open(directory.path(), 4).await;
        assert!(Authorities::load(&foreign).await.is_err(), "another sealing key does not open them");
    }

    #[tokio::test]
    async fn an_agents_certificate_takes_nothing_but_the_key_from_the_request() {
        let (_directory, store) = store().await;
        let authorities = Authorities::load(&store).await.unwrap();
        let key = KeyPair::generate().unwrap();
        let mut wish = CertificateParams::new(vec!["controller".to_owned()]).unwrap();
        wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let csr = wish.serialize_request(&key).unwrap();
        let request = CertificateRequest::parse(csr.der()).unwrap();
        let name = AgentName { instance: InstanceId::random(), generation: 3 };
        let pem = authorities.sign_agent(&request, name, DAY).unwrap();
        let certificate = certificates(&pem).unwrap().remove(0);
        assert_eq!(AgentName::read(&certificate), Some(name));
        let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
        let usage = parsed.extended_key_usage().unwrap().unwrap().value.clone();
        assert!(usage.client_auth && !usage.server_auth);
        assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
        assert_eq!(parsed.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
        assert!(parsed.validity().not_before.timestamp() < OffsetDateTime::now_utc().unix_timestamp() - 60);
    }

    #[test]
    fn what_is_no_request_is_the_callers_fault() {
        assert!(matches!(CertificateRequest::parse(b"nonsense"), Err(Error::BadRequest(_))));
        assert!(matches!(CertificateRequest::parse(b""), Err(Error::BadRequest(_))));
    }

    #[test]
    fn names_are_read_whole_or_not_at_all() {
        let name = AgentName { instance: InstanceId::random(), generation: 7 };
        assert_eq!(AgentName::parse(&name.uri()), Some(name));
        for uri in ["trove://instance/", "trove://instance/x/1", "http://instance/", "trove://instance/7"] {
            assert_eq!(AgentName::parse(uri), None, "{uri}");
        }
        assert_eq!(AgentName::parse(&format!("{AGENT_URI}{}", name.instance)), None, "no generation");
    }

    #[tokio::test]
    async fn an_engines_certificate_names_its_addresses_and_its_instance() {
        let (_directory, store) = store().await;
        let authorities = Authorities::load(&store).await.unwrap();
        let instance = InstanceId::random();
        let issued = authorities.issue_engine(instance, &["127.1.2.3".parse().unwrap()]).unwrap();
        let certificate = certificates(&issued.certificate_pem).unwrap().remove(0);
        let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
        let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert!(names.contains(&GeneralName::IPAddress(&[127, 1, 2, 3])));
        assert!(names.contains(&GeneralName::DNSName(&instance.to_string())));
        assert_eq!(parsed.validity().not_after.timestamp(), issued.not_after.unix_timestamp());
        assert_eq!(AgentName::read(&certificate), None, "an engine is no agent");
    }
}
