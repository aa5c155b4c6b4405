//! Encrypts secrets for the store. The key is in a file of the state directory, mode 0600, or comes from the
//! configuration.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use secrecy::{ExposeSecret, SecretString};

use crate::error::{Error, Result};

const NONCE_BYTES: usize = 24;

/// Encrypts and decrypts secrets. Cheap to clone.
#[derive(Clone)]
pub struct Seal {
    cipher: XChaCha20Poly1305,
}

impl Seal {
    pub fn new(key: &[u8; 32]) -> Self {
        Self { cipher: XChaCha20Poly1305::new(key.into()) }
    }

    /// Encrypts a secret for the store. It can be decrypted only with the same `purpose`.
    pub fn seal(&self, purpose: &str, secret: &SecretString) -> Result<String> {
        let nonce_bytes: [u8; NONCE_BYTES] = rand::random();
        let nonce = XNonce::from(nonce_bytes);
        let payload = Payload { msg: secret.expose_secret().as_bytes(), aad: purpose.as_bytes() };
        let sealed = self
            .cipher
            .encrypt(&nonce, payload)
            .map_err(|_| Error::Internal { attempt: format!("seal {purpose}"), source: None })?;
        let mut bytes = nonce_bytes.to_vec();
        bytes.extend_from_slice(&sealed);
        Ok(STANDARD.encode(bytes))
    }

    /// Decrypts a secret.
    ///
    /// # Errors
    /// Internal: the key or purpose is another, or the text is damaged.
    pub fn open(&self, purpose: &str, text: &str) -> Result<SecretString> {
        let failed = || Error::Internal {
            attempt: format!("open the sealed {purpose}: it was sealed with another key, or is damaged"),
            source: None,
        };
        let bytes = STANDARD.decode(text).map_err(|_| failed())?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_BYTES).ok_or_else(failed)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| failed())?;
        let payload = Payload { msg: sealed, aad: purpose.as_bytes() };
        let plain = self.cipher.decrypt(&XNonce::from(nonce), payload).map_err(|_| failed())?;
        String::from_utf8(plain).map(SecretString::from).map_err(|_| failed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_under_the_same_key_and_purpose_only() {
        let seal = Seal::new(&[7; 32]);
        let text = seal.seal("password", &SecretString::from("sesame")).unwrap();
        assert!(!text.contains("sesame"));
        assert_eq!(seal.open("password", &text).unwrap().expose_secret(), "sesame");
        assert!(seal.open("authority", &text).is_err());
        assert!(Seal::new(&[8; 32]).open("password", &text).is_err());
    }
}
