//! Where backups lie when that is no directory: a bucket of S3 or a container of Swift.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{Config, read_secret};
use crate::error::{Error, Result};

/// What keeps the objects of backups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageKind {
    /// A directory, which this service serves to agents.
    #[default]
    Fs,
    /// A bucket.
    S3,
    /// A container.
    Swift,
}

/// A bucket of S3, or of what speaks its API.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3 {
    pub endpoint: String,
    pub region: String,
    pub bucket: String,
    pub path_style: bool,
    pub access_key: String,
    #[serde(skip_serializing)]
    pub secret_key: Option<SecretString>,
    pub secret_key_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
}

/// A container of Swift, and this service's own user there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Swift {
    pub storage_url: String,
    pub container: String,
    #[serde(skip_serializing)]
    pub temp_url_key: Option<SecretString>,
    pub temp_url_key_file: Option<PathBuf>,
    pub auth_url: String,
    pub username: String,
    #[serde(skip_serializing)]
    pub password: Option<SecretString>,
    pub password_file: Option<PathBuf>,
    pub user_domain_name: String,
    pub project_name: String,
    pub project_domain_name: String,
    pub ca_file: Option<PathBuf>,
}

impl Default for S3 {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            region: "us-east-1".to_owned(),
            bucket: String::new(),
            path_style: true,
            access_key: String::new(),
            secret_key: None,
            secret_key_file: None,
            ca_file: None,
        }
    }
}

impl Default for Swift {
    fn default() -> Self {
        Self {
            storage_url: String::new(),
            container: String::new(),
            temp_url_key: None,
            temp_url_key_file: None,
            auth_url: String::new(),
            username: String::new(),
            password: None,
            password_file: None,
            user_domain_name: "Default".to_owned(),
            project_name: "service".to_owned(),
            project_domain_name: "Default".to_owned(),
            ca_file: None,
        }
    }
}

impl S3 {
    /// The secret key.
    ///
    /// # Errors
    /// 400 if it cannot be read.
    pub fn secret(&self) -> Result<SecretString> {
        secret(("s3.secret_key", &self.secret_key), ("s3.secret_key_file", &self.secret_key_file))
    }
}

impl Swift {
    /// The key that signs addresses.
    ///
    /// # Errors
    /// 400 if it cannot be read.
    pub fn signing_key(&self) -> Result<SecretString> {
        secret(("swift.temp_url_key", &self.temp_url_key), ("swift.temp_url_key_file", &self.temp_url_key_file))
    }

    /// The password of the service's user, read each time, so that it can be changed without a restart.
    ///
    /// # Errors
    /// 400 if it cannot be read.
    pub fn secret(&self) -> Result<SecretString> {
        secret(("swift.password", &self.password), ("swift.password_file", &self.password_file))
    }
}

/// The secret itself, or what is in its file.
fn secret(
    (option, given): (&str, &Option<SecretString>),
    (file_option, file): (&str, &Option<PathBuf>),
) -> Result<SecretString> {
    match (given, file) {
        (Some(given), None) => Ok(given.clone()),
        (None, Some(file)) => read_secret(file_option, file),
        _ => Err(Error::BadRequest(format!(
            "{file_option} or TROVE_{} has to be set, one of the two.",
            option.replace('.', "__").to_uppercase()
        ))),
    }
}

impl Config {
    /// Whether what is needed of the storage of backups is there.
    pub(super) fn check_storage(&self) -> Result<()> {
        match self.backups.storage {
            StorageKind::Fs => Ok(()),
            _ if self.backups.directory.is_some() => Err(Error::BadRequest(
                "backups.directory is that of backups.storage = \"fs\": with another storage it is not used."
                    .to_owned(),
            )),
            StorageKind::S3 => {
                let s3 = &self.s3;
                address("s3.endpoint", &s3.endpoint, "https://s3.example.org")?;
                words(&[("s3.region", &s3.region), ("s3.bucket", &s3.bucket), ("s3.access_key", &s3.access_key)])?;
                s3.secret().map(drop)
            }
            StorageKind::Swift => {
                let swift = &self.swift;
                address("swift.storage_url", &swift.storage_url, "https://swift.example.org/v1/AUTH_0123")?;
                address("swift.auth_url", &swift.auth_url, "https://keystone.example.org:5000/v3")?;
                words(&[
                    ("swift.container", &swift.container),
                    ("swift.username", &swift.username),
                    ("swift.project_name", &swift.project_name),
                ])?;
                swift.signing_key()?;
                swift.secret().map(drop)
            }
        }
    }
}

/// Whether these are set.
fn words(options: &[(&str, &String)]) -> Result<()> {
    let unset = options.iter().find(|(_, value)| value.is_empty());
    unset.map_or(Ok(()), |(name, _)| Err(Error::BadRequest(format!("{name} is not set."))))
}

/// Whether this is the address of a server, without anything secret in it.
fn address(option: &str, text: &str, example: &str) -> Result<()> {
    let plain = |url: &Url| {
        let secret = !url.username().is_empty() || url.password().is_some() || url.query().is_some();
        matches!(url.scheme(), "http" | "https") && url.host().is_some() && !secret
    };
    match Url::parse(text).ok().filter(plain) {
        Some(_) => Ok(()),
        None => Err(Error::BadRequest(format!(
            "{option} must be an address such as {example}, without a user, a password or a query."
        ))),
    }
}
