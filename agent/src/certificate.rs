//! The engine's own certificate, as files.

use std::path::Path;

use trove_proto::v1;
use trove_strategy::{EngineError, File, Host, Owner, Site};

/// Writes the engine's certificate where the strategy's configuration points to.
///
/// # Errors
/// A file cannot be written.
pub(crate) async fn write_certificate(
    site: &Site,
    certificate: Option<&v1::EngineCertificate>,
) -> Result<(), EngineError> {
    let Some(certificate) = certificate else { return Ok(()) };
    for (path, pem) in [
        (&site.tls.key, &certificate.key_pem),
        (&site.tls.certificate, &certificate.certificate_pem),
        (&site.tls.authority, &certificate.authority_pem),
    ] {
        write_pem(site.host.as_ref(), path, pem).await?;
    }
    Ok(())
}

async fn write_pem(host: &dyn Host, path: &Path, pem: &str) -> Result<(), EngineError> {
    let file = File { path: path.to_owned(), contents: pem.as_bytes().to_vec(), mode: 0o600, owner: Owner::Engine };
    Ok(host.write(file).await?)
}
