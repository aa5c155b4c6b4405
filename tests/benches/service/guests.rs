//! Makes keys and certificates of many agents, signed as by enrolment.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::PrivatePkcs8KeyDer;
use trove_controller::authority::{AgentName, Authorities, CertificateRequest, certificates};
use trove_controller::config::Config;
use trove_controller::ids::InstanceId;

/// TLS settings of each instance's agent.
pub(crate) fn identities(
    authorities: &Authorities,
    config: &Config,
    instances: &[InstanceId],
) -> Result<Vec<Arc<ClientConfig>>> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(authorities.agents_pem())? {
        roots.add(authority)?;
    }
    let roots = Arc::new(roots);
    instances.iter().map(|instance| identity(authorities, config, &roots, *instance)).collect()
}

fn identity(
    authorities: &Authorities,
    config: &Config,
    roots: &Arc<RootCertStore>,
    instance: InstanceId,
) -> Result<Arc<ClientConfig>> {
    let key = KeyPair::generate()?;
    let request = CertificateRequest::parse(CertificateParams::default().serialize_request(&key)?.der())?;
    let name = AgentName { instance, generation: 1 };
    let pem = authorities.sign_agent(&request, name, config.agents.certificate_lifetime)?;
    let chain = certificates(&pem)?;
    let mut tls = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .map_err(|error| anyhow!("the key of {instance}: {error}"))?;
    tls.alpn_protocols = vec![trove_proto::ALPN_AGENT.to_vec()];
    Ok(Arc::new(tls))
}
