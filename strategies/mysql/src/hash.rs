//! What the server stores of a password, computed here: no password is ever in a statement.

use secrecy::{ExposeSecret, SecretString};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The longest password by which an account logs in whether the connection is encrypted or not, bytes. In clear it is sent under
/// the server's RSA key of 2048 bits, in whose block 42 bytes are padding and one ends the password.
pub(crate) const SHA2_PASSWORD_BYTES: usize = 213;
const SALT_BYTES: usize = 20;
/// In thousands; the server's own.
const ROUNDS: usize = 5;

/// For `mysql_native_password`: `*` and SHA-1 of SHA-1 in hexadecimal digits.
pub(crate) fn native(password: &SecretString) -> String {
    let once = Sha1::digest(password.expose_secret().as_bytes());
    format!("*{}", hex::encode_upper(Sha1::digest(once)))
}

/// For `caching_sha2_password`: `$A$`, the rounds, a salt and the password's SHA-256 in the manner of crypt(5).
pub(crate) fn caching_sha2(password: &SecretString) -> Vec<u8> {
    // Neither NUL nor what parts the fields.
    let salt: [u8; SALT_BYTES] = rand::random::<[u8; SALT_BYTES]>().map(|byte| DIGITS[usize::from(byte) % 64]);
    let mut stored = format!("$A${ROUNDS:03}$").into_bytes();
    stored.extend(salt);
    stored.extend(sha256_crypt(password.expose_secret().as_bytes(), &salt, ROUNDS * 1000));
    stored
}

const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The last field of a `$5$` password (U. Drepper, "Unix crypt using SHA-256 and SHA-512"), whose salt is not cut here.
fn sha256_crypt(password: &[u8], salt: &[u8], rounds: usize) -> Vec<u8> {
    let other = Sha256::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let repeated = |bytes: &[u8], length: usize| -> Vec<u8> { bytes.iter().copied().cycle().take(length).collect() };
    let mut first = Sha256::new().chain_update(password).chain_update(salt);
    first.update(repeated(&other, password.len()));
    let mut bits = password.len();
    while bits > 0 {
        if bits & 1 == 1 {
            first.update(other)
        } else {
            first.update(password)
        }
        bits >>= 1;
    }
    let first = first.finalize();
    let mut many = Sha256::new();
    (0..password.len()).for_each(|_| many.update(password));
    let of_password = repeated(&many.finalize(), password.len());
    let mut many = Sha256::new();
    (0..16 + usize::from(first[0])).for_each(|_| many.update(salt));
    let of_salt = repeated(&many.finalize(), salt.len());
    let mut digest = first;
    for round in 0..rounds {
        let mut next = Sha256::new();
        if round % 2 == 1 {
            next.update(&of_password)
        } else {
            next.update(digest)
        }
        if round % 3 != 0 {
            next.update(&of_salt);
        }
        if round % 7 != 0 {
            next.update(&of_password);
        }
        if round % 2 == 1 {
            next.update(digest)
        } else {
            next.update(&of_password)
        }
        digest = next.finalize();
    }
    let mut text = Vec::new();
    let mut spell = |bytes: [u8; 3], digits: usize| {
        let value = bytes.iter().fold(0usize, |value, byte| value << 8 | usize::from(*byte));
        text.extend((0..digits).map(|digit| DIGITS[value >> (6 * digit) & 63]));
    };
    let (mut a, mut b, mut c) = (0, 10, 20);
    for _ in 0..10 {
        spell([digest[a], digest[b], digest[c]], 4);
        (a, b, c) = (c + 1, a + 1, b + 1);
    }
    spell([0, digest[31], digest[30]], 3);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_native_one_is_what_the_server_computes() {
        // SELECT PASSWORD('mypass'), from the manual of MySQL 5.7.
        assert_eq!(native(&"mypass".into()), "*6C8989366EAF75BB670AD8EA7A7FC1176A95CEF4");
    }

    #[test]
    fn crypt_is_that_of_the_system() {
        // openssl passwd -5, and crypt(3) of glibc.
        let known = |password: &str, salt: &str, rounds| {
            String::from_utf8(sha256_crypt(password.as_bytes(), salt.as_bytes(), rounds)).unwrap()
        };
        assert_eq!(known("Hello world!", "saltstring", 5000), "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5");
        assert_eq!(known("Hello world!", "saltstringsaltst", 10000), "3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA");
    }

    #[test]
    fn what_is_stored_has_the_servers_form_and_another_salt_each_time() {
        let stored = caching_sha2(&"secret".into());
        assert_eq!(stored.len(), 7 + SALT_BYTES + 43);
        assert!(stored.starts_with(b"$A$005$") && !stored[7..].contains(&b'$'));
        assert_ne!(stored, caching_sha2(&"secret".into()));
    }
}
