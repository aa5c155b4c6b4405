//! Secrets that the operator keeps in files of their own.

#![allow(clippy::disallowed_methods, reason = "files that the operator names")]

use std::path::Path;

use secrecy::SecretString;

use crate::error::{Error, Result};

/// Reads a secret from the file that the option names, without the newline at its end.
///
/// # Errors
/// 400 with the option: the file cannot be read, or is empty.
pub fn read_secret(option: &str, file: &Path) -> Result<SecretString> {
    let refuse = |reason: String| Error::BadRequest(format!("{option} {}: {reason}.", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() { Err(refuse("is empty".to_owned())) } else { Ok(SecretString::from(text)) }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_secret_is_read_without_its_newline_and_refused_when_empty() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("password");
        std::fs::write(&file, "se same \n").unwrap();
        assert_eq!(read_secret("keystone.password_file", &file).unwrap().expose_secret(), "se same ");
        std::fs::write(&file, "\n").unwrap();
        assert!(read_secret("s3.secret_key_file", &file).unwrap_err().to_string().contains("s3.secret_key_file"));
    }
}
