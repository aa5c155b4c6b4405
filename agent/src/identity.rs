//! Who this agent is: its key, which never leaves the guest, and its certificate.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use time::OffsetDateTime;

use crate::durable::Durable;

/// The key and its certificate: one file, so that a crash never leaves one without the other.
const PAIR: &str = "identity.pem";
const NEXT_KEY: &str = "next-key.pem";
const AUTHORITY: &str = "authority.pem";

/// The files of the identity.
#[derive(Clone)]
pub struct Identity {
    files: Durable,
}

/// When a certificate begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub from: OffsetDateTime,
    /// To.
    pub to: OffsetDateTime,
}

impl Identity {
    /// Its files; the driver's copy of the authority is taken over at the first start.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn open(files: Durable, authority: &Path) -> Result<Self> {
        if files.read(AUTHORITY)?.is_none() {
            let pem = std::fs::read(authority).with_context(|| format!("read {}", authority.display()))?;
            files.write(AUTHORITY, &pem)?;
        }
        Ok(Self { files })
    }

    /// When the certificate is good, or `None` before the agent enrolled.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn validity(&self) -> Result<Option<Validity>> {
        let Some(pem) = self.files.read(PAIR)? else { return Ok(None) };
        let der = CertificateDer::from_pem_slice(&pem).context("read the agent's certificate")?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).context("parse the agent's certificate")?;
        let validity = parsed.validity();
        // Certificates are dated back against clocks that differ; the life that counts began when this one came.
        let taken = std::fs::metadata(self.files.path(PAIR)).and_then(|facts| facts.modified());
        let taken = taken.map(OffsetDateTime::from).context("look at the agent's certificate")?;
        let from = validity.not_before.to_datetime().max(taken);
        Ok(Some(Validity { from, to: validity.not_after.to_datetime() }))
    }

    /// A request for a certificate. Its key is stored first, so that a request that is repeated has the same one.
    ///
    /// # Errors
    /// The key cannot be made or stored.
    pub fn request(&self) -> Result<Vec<u8>> {
        let pem = match self.files.read(NEXT_KEY)? {
            Some(pem) => String::from_utf8(pem).context("read the agent's next key")?,
            None => {
                let pem = KeyPair::generate().context("make a key")?.serialize_pem();
                self.files.write(NEXT_KEY, pem.as_bytes())?;
                pem
            }
        };
        let key = KeyPair::from_pem(&pem).context("read the agent's next key")?;
        // Names come from the token or the present certificate: the controller looks at the key alone.
        let request = CertificateParams::default().serialize_request(&key).context("make a certificate request")?;
        Ok(request.der().to_vec())
    }

    /// Takes up a certificate for the key of the last request.
    ///
    /// # Errors
    /// It cannot be stored.
    pub fn accept(&self, certificate_pem: &str, authority_pem: &str) -> Result<()> {
        let Some(key) = self.files.read(NEXT_KEY)? else { bail!("a certificate came that was not asked for") };
        self.files.write(AUTHORITY, authority_pem.as_bytes())?;
        let mut pair = key;
        pair.push(b'\n');
        pair.extend_from_slice(certificate_pem.as_bytes());
        self.files.write(PAIR, &pair)?;
        self.files.remove(NEXT_KEY)
    }

    /// TLS towards a controller, under this protocol name; with the agent's certificate where there is one.
    ///
    /// # Errors
    /// A file is damaged.
    pub fn client(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        let authority = self.files.read(AUTHORITY)?.context("the authority of controllers is not there")?;
        for certificate in CertificateDer::pem_slice_iter(&authority) {
            roots.add(certificate.context("read the authority of controllers")?).context("trust the authority")?;
        }
        let builder = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13]);
        let builder = builder.with_root_certificates(roots);
        let mut config = match self.files.read(PAIR)? {
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_slice(&pair).context("read the agent's key")?;
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pair).collect();
                let chain = chain.context("read the agent's certificate")?;
                builder.with_client_auth_cert(chain, key).context("use the agent's certificate")?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(Arc::new(config))
    }
}
