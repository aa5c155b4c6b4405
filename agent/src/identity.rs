//! The agent's identity: its private key, which never leaves the guest, and its certificate.

#![allow(
    clippy::disallowed_methods,
    reason = "the driver's copy of the authority lies in a directory of the agent alone"
)]

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use time::OffsetDateTime;

use crate::durable::Durable;

/// One file for the key and its certificate, so that a crash never leaves one without the other.
const PAIR: &str = "identity.pem";
const NEXT_KEY: &str = "next-key.pem";
const AUTHORITY: &str = "authority.pem";

/// Access to the files of the identity.
#[derive(Clone)]
pub struct Identity {
    files: Durable,
}

/// Period in which the agent uses its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: OffsetDateTime,
    pub to: OffsetDateTime,
}

/// Parses PEM certificates; none is an error.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    ensure!(!all.is_empty(), "there is no certificate");
    for der in &all {
        x509_parser::parse_x509_certificate(der).context("parse a certificate")?;
    }
    Ok(all)
}

impl Identity {
    /// Opens the files. The agent copies the authority's certificate from the driver's file at the first start, and
    /// again when its copy is damaged.
    pub fn open(files: Durable, authority: &Path) -> Result<Self> {
        if files.read_whole(AUTHORITY, certificates)?.is_none() {
            let pem = std::fs::read(authority).with_context(|| format!("read {}", authority.display()))?;
            files.write(AUTHORITY, &pem)?;
        }
        Ok(Self { files })
    }

    /// Reads key and certificate. A damaged file is set aside; then the agent must enrol again.
    fn pair(&self) -> Result<Option<(PrivateKeyDer<'static>, Vec<CertificateDer<'static>>)>> {
        self.files.read_whole(PAIR, |pem| {
            let key = PrivateKeyDer::from_pem_slice(pem).context("read the agent's key")?;
            Ok((key, certificates(pem).context("read the agent's certificate")?))
        })
    }

    /// Whether the file of the certificate was damaged.
    pub fn was_damaged(&self) -> bool {
        self.files.was_set_aside(PAIR)
    }

    /// Validity of the certificate; `None` before enrolment and when its file is damaged.
    pub fn validity(&self) -> Result<Option<Validity>> {
        let Some((_, chain)) = self.pair()? else { return Ok(None) };
        let der = chain.first().context("read the agent's certificate")?;
        let (_, parsed) = x509_parser::parse_x509_certificate(der).context("parse the agent's certificate")?;
        let validity = parsed.validity();
        // Certificates are backdated to allow for clocks that differ; for renewal, count from the time of its arrival.
        let taken = OffsetDateTime::from(self.files.written_at(PAIR)?);
        let from = validity.not_before.to_datetime().max(taken);
        Ok(Some(Validity { from, to: validity.not_after.to_datetime() }))
    }

    /// Makes a certificate request. Its key is stored first, so that a repeated request has the same key.
    pub fn request(&self) -> Result<Vec<u8>> {
        let stored = self.files.read_whole(NEXT_KEY, |pem| {
            KeyPair::from_pem(std::str::from_utf8(pem)?).context("read the agent's next key")
        })?;
        let key = match stored {
            Some(key) => key,
            None => {
                let key = KeyPair::generate().context("make a key")?;
                self.files.write(NEXT_KEY, key.serialize_pem().as_bytes())?;
                key
            }
        };
        // The request carries no names: the controller takes them from the token or the present certificate.
        let request = CertificateParams::default().serialize_request(&key).context("make a certificate request")?;
        Ok(request.der().to_vec())
    }

    /// Stores a certificate for the key of the last request.
    pub fn accept(&self, certificate_pem: &str, authority_pem: &str) -> Result<()> {
        let Some(key) = self.files.read(NEXT_KEY)? else { bail!("a certificate came that was not asked for") };
        self.files.write(AUTHORITY, authority_pem.as_bytes())?;
        let mut pair = key;
        pair.push(b'\n');
        pair.extend_from_slice(certificate_pem.as_bytes());
        self.files.write(PAIR, &pair)?;
        self.files.remove(NEXT_KEY)
    }

    /// TLS settings for a connection to a controller, with this ALPN protocol, and with the agent's certificate if it
    /// has one.
    pub fn client(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        let authority = self.files.read(AUTHORITY)?.context("the authority of controllers is not there")?;
        for certificate in CertificateDer::pem_slice_iter(&authority) {
            roots.add(certificate.context("read the authority of controllers")?).context("trust the authority")?;
        }
        let builder = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13]);
        let builder = builder.with_root_certificates(roots);
        let mut config = match self.pair()? {
            Some((key, chain)) => builder.with_client_auth_cert(chain, key).context("use the agent's certificate")?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An enrolled agent that has made the key for its next certificate.
    fn enrolled(directory: &Path) -> Identity {
        let key = KeyPair::generate().unwrap();
        let pem = CertificateParams::default().self_signed(&key).unwrap().pem();
        std::fs::write(directory.join("driver.pem"), &pem).unwrap();
        let identity = Identity::open(Durable::open(directory).unwrap(), &directory.join("driver.pem")).unwrap();
        identity.request().unwrap();
        let key = KeyPair::from_pem(&String::from_utf8(identity.files.read(NEXT_KEY).unwrap().unwrap()).unwrap());
        let certificate = CertificateParams::default().self_signed(&key.unwrap()).unwrap().pem();
        identity.accept(&certificate, &pem).unwrap();
        identity.request().unwrap();
        identity
    }

    #[test]
    fn files_that_are_cut_off_at_any_length_are_set_aside_and_made_anew() {
        // Fails if another test has installed the process-wide provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let scratch = tempfile::tempdir().unwrap();
        let identity = enrolled(scratch.path());
        let authority = scratch.path().join("driver.pem");
        assert!(identity.validity().unwrap().is_some() && !identity.was_damaged());
        let files = [PAIR, NEXT_KEY, AUTHORITY].map(|name| (name, identity.files.read(name).unwrap().unwrap()));
        for (name, whole) in &files {
            for length in (0..whole.len() - 2).step_by(7) {
                files.iter().for_each(|(name, whole)| identity.files.write(name, whole).unwrap());
                identity.files.write(name, &whole[..length]).unwrap();
                let again = Identity::open(identity.files.clone(), &authority).unwrap();
                assert_eq!(again.validity().unwrap().is_none(), *name == PAIR, "{name} {length}");
                again.request().unwrap();
                again.client(b"x").unwrap();
                assert!(identity.files.was_set_aside(name), "{name} {length}");
            }
        }
        assert!(identity.was_damaged());
    }
}
