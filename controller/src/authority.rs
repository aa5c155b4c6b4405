//! The two authorities: one signs agents and controllers, the other signs engines. Their keys are sealed in the store.
//!
//! SKELETON of the interface; bodies follow.

use std::net::IpAddr;

use secrecy::SecretString;

use crate::error::Result;
use crate::ids::InstanceId;
use crate::store::Store;

/// Both authorities, loaded.
pub struct Authorities {}

/// A certificate for an engine, with its key.
pub struct EngineCertificate {
    /// PEM.
    pub certificate_pem: String,
    /// PEM, PKCS#8.
    pub key_pem: SecretString,
    /// PEM of the engines' authority.
    pub authority_pem: String,
}

#[allow(unused_variables)]
impl Authorities {
    /// Loads them, or makes them at the first start. Two controllers that start at once end up with the same pair.
    pub async fn load(store: &Store) -> Result<Self> {
        todo!()
    }
    /// PEM of the authority of controllers and agents.
    pub fn agents_pem(&self) -> &str {
        todo!()
    }
    /// PEM of the engines' authority, which is what tenants trust.
    pub fn engines_pem(&self) -> &str {
        todo!()
    }
    /// Signs an agent: URI SAN `trove://instance/<id>/<generation>`.
    pub fn sign_agent(&self, csr_der: &[u8], instance: InstanceId, generation: u64) -> Result<String> {
        todo!()
    }
    /// Makes a key and a certificate for an engine: SANs are its addresses and the instance's id.
    pub fn issue_engine(&self, instance: InstanceId, addresses: &[IpAddr]) -> Result<EngineCertificate> {
        todo!()
    }
}
