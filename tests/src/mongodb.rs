//! MongoDB as its tenants see it: the official driver.

use std::path::Path;
use std::time::Duration;

use ::mongodb::bson::Document;
use ::mongodb::options::{AuthMechanism, ClientOptions, Credential, ServerAddress, Tls, TlsOptions};
use anyhow::{Context, Result};
use serde_json::Value;

/// Where an instance listens.
#[derive(Clone, Debug)]
pub struct MongoDb {
    address: String,
    tls: Option<TlsOptions>,
}

impl MongoDb {
    /// In clear.
    ///
    /// # Errors
    /// The view has no address.
    pub fn plain(view: &Value) -> Result<Self> {
        let address = view["ip"][0].as_str().with_context(|| format!("an address in {view}"))?.to_owned();
        Ok(Self { address, tls: None })
    }

    /// With TLS; the certificate has to be signed by `authority`, a file.
    ///
    /// # Errors
    /// The view has no address.
    pub fn tls(view: &Value, authority: &Path) -> Result<Self> {
        let tls = TlsOptions::builder().ca_file_path(authority.to_owned()).build();
        Ok(Self { tls: Some(tls), ..Self::plain(view)? })
    }

    /// A client logged in as `database.name`. It repeats no write by itself.
    ///
    /// # Errors
    /// The account has no database.
    pub fn client(&self, user: &str, password: &str) -> Result<::mongodb::Client> {
        let (source, name) = user.split_once('.').context("an account is written database.name")?;
        let mut options = ClientOptions::default();
        options.hosts = vec![ServerAddress::Tcp { host: self.address.clone(), port: Some(27017) }];
        options.direct_connection = Some(true);
        options.server_selection_timeout = Some(Duration::from_secs(3));
        options.retry_writes = Some(false);
        options.tls = self.tls.clone().map(Tls::Enabled);
        let credential = Credential::builder().username(name.to_owned()).source(source.to_owned());
        let credential = credential.password(password.to_owned()).mechanism(AuthMechanism::ScramSha256);
        options.credential = Some(credential.build());
        Ok(::mongodb::Client::with_options(options)?)
    }

    /// Runs a command as `database.name`.
    ///
    /// # Errors
    /// The engine refused: with its words.
    pub async fn run(&self, user: &str, password: &str, database: &str, command: Document) -> Result<Document> {
        Ok(self.client(user, password)?.database(database).run_command(command).await?)
    }
}
