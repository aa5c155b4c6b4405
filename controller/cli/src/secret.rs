//! Passwords: from a file, from standard input, asked for, or made. Never from the command line.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use secrecy::SecretString;

use crate::error::{Failure, Result};

/// Where a password comes from.
#[derive(Args, Debug)]
#[group(multiple = false)]
pub(crate) struct PasswordSource {
    /// Reads the password from the first line of a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Reads the password from the first line of standard input.
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Makes a password and prints it once.
    #[arg(long)]
    pub(crate) generate_password: bool,
}

/// A password, and whether it was made just now and has to be shown.
pub(crate) struct Password {
    pub(crate) secret: SecretString,
    pub(crate) generated: bool,
}

/// 24 characters from 62.
fn generate() -> SecretString {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let letter = |_| char::from(LETTERS[rand::random_range(0..LETTERS.len())]);
    let text: String = (0..24).map(letter).collect();
    SecretString::from(text)
}

impl PasswordSource {
    /// The password that was given, asked for on a terminal, or made.
    ///
    /// # Errors
    /// The file or standard input cannot be read, or the two answers differ.
    pub(crate) fn read(&self, whose: &str) -> Result<Password> {
        if let Some(secret) = self.given()? {
            return Ok(Password { secret, generated: false });
        }
        if self.generate_password || !std::io::stdin().is_terminal() {
            return Ok(Password { secret: generate(), generated: true });
        }
        let ask = |text: String| {
            rpassword::prompt_password(text).map_err(|e| Failure::failed(format!("Read the password: {e}.")))
        };
        let first = ask(format!("Password for {whose}: "))?;
        if first != ask(format!("Password for {whose}, again: "))? {
            return Err(Failure::Usage("The two passwords differ.".to_owned()));
        }
        Ok(Password { secret: SecretString::from(first), generated: false })
    }

    /// The password of an account that there is: given or asked for.
    ///
    /// # Errors
    /// As of [`PasswordSource::read`]; or there is no terminal to ask on.
    pub(crate) fn existing(&self, whose: &str) -> Result<SecretString> {
        if let Some(secret) = self.given()? {
            return Ok(secret);
        }
        if !std::io::stdin().is_terminal() {
            return Err(Failure::Usage(format!(
                "The password of {whose} is needed: --password-file or --password-stdin."
            )));
        }
        let asked = rpassword::prompt_password(format!("Password for {whose}: "));
        asked.map(SecretString::from).map_err(|error| Failure::failed(format!("Read the password: {error}.")))
    }

    fn given(&self) -> Result<Option<SecretString>> {
        let first_line = |text: &str| SecretString::from(text.lines().next().unwrap_or_default());
        if let Some(path) = &self.password_file {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::Usage(format!("Read {}: {error}.", path.display())))?;
            return Ok(Some(first_line(&text)));
        }
        if self.password_stdin {
            let mut text = String::new();
            let read = std::io::stdin().lock().read_line(&mut text);
            read.map_err(|error| Failure::failed(format!("Read standard input: {error}.")))?;
            return Ok(Some(first_line(&text)));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn made_passwords_are_long_and_differ() {
        let (one, two) = (generate(), generate());
        assert_eq!(one.expose_secret().len(), 24);
        assert_ne!(one.expose_secret(), two.expose_secret());
    }
}
