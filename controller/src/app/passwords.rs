//! Passwords that the service makes.

use rand::TryRng;
use rand::rngs::SysRng;
use secrecy::SecretString;

use crate::error::{Error, Result};

/// Nothing that a shell, a URL or a connection string gives a meaning to.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// About 142 bits.
const LENGTH: usize = 24;

/// Bytes from here on are thrown away, so that every character is as likely as any other.
const FAIR: usize = (256 / ALPHABET.len()) * ALPHABET.len();

/// A new password, from the operating system's random numbers.
///
/// # Errors
/// Internal: the system has none.
pub(super) fn generate() -> Result<SecretString> {
    let mut password = String::with_capacity(LENGTH);
    let mut bytes = [0; 64];
    while password.len() < LENGTH {
        SysRng.try_fill_bytes(&mut bytes).map_err(|error| Error::internal("make a password", error))?;
        let fair = bytes.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < FAIR);
        let characters = fair.filter_map(|byte| ALPHABET.get(byte % ALPHABET.len())).map(|byte| char::from(*byte));
        password.extend(characters.take(LENGTH - password.len()));
    }
    Ok(SecretString::from(password))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn passwords_are_long_plain_and_different() {
        let made: std::collections::HashSet<String> =
            (0..200).map(|_| generate().unwrap().expose_secret().to_owned()).collect();
        assert_eq!(made.len(), 200);
        assert!(made.iter().all(|password| password.len() == LENGTH));
        assert!(made.iter().all(|password| password.bytes().all(|byte| ALPHABET.contains(&byte))));
        let used: std::collections::HashSet<u8> = made.iter().flat_map(|password| password.bytes()).collect();
        assert_eq!(used.len(), ALPHABET.len(), "4800 characters leave none out");
    }
}
