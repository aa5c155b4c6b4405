//! Writes the engine's TLS certificate to files.

use trove_proto::v1;
use trove_strategy::{EngineError, File, Owner, Site};

/// Writes the engine's certificate to the paths that the strategy's configuration names.
pub(crate) async fn write_certificate(
    site: &Site,
    certificate: Option<&v1::EngineCertificate>,
) -> Result<(), EngineError> {
    let Some(certificate) = certificate else { return Ok(()) };
    for (at, pem) in [
        (&site.tls.key, &certificate.key_pem),
        (&site.tls.certificate, &certificate.certificate_pem),
        (&site.tls.authority, &certificate.authority_pem),
    ] {
        let contents = pem.as_bytes().to_vec();
        site.host.write(File { at: at.clone(), contents, mode: 0o640, owner: Owner::Agent }).await?;
    }
    Ok(())
}
