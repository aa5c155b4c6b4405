//! Key pairs of age, one a backup, and whom backups are encrypted to besides.

use age::x25519::Identity;
use secrecy::SecretString;

use super::Objects;
use crate::config::Config;

/// A key pair of age, for one backup.
pub struct Key {
    /// The public half, `age1…`.
    pub recipient: String,
    /// The secret half.
    pub identity: SecretString,
}

impl Objects {
    /// A new key pair.
    pub fn new_key() -> Key {
        let identity = Identity::generate();
        Key { recipient: identity.to_public().to_string(), identity: identity.to_string() }
    }

    /// Whom a backup with this key pair is encrypted to: the pair itself, and whoever the operator configured.
    pub fn recipients(config: &Config, own: &str) -> Vec<String> {
        let configured = config.backups.recipients.iter().filter(|recipient| *recipient != own);
        std::iter::once(own.to_owned()).chain(configured.cloned()).collect()
    }
}
