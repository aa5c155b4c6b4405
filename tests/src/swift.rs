//! A real Swift for a test, with a container that its own API and S3's reach, and what a service needs to keep backups there.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use crate::server::{Program, Server};
use crate::skip::skipped;

const PROGRAM: Program = Program { name: "Swift", script: "swift.sh", cache: "TROVE_TESTS_SWIFT", port: 8080 };
const USER: &str = "trove:backups";
const PASSWORD: &str = "backups-secret";
/// The key of TempURL.
pub const SIGNING_KEY: &str = "temp-url-secret";
const CONTAINER: &str = "backups";

/// A Swift in its own directory. Dropping it stops it.
pub struct Swift {
    server: Server,
    client: Client,
}

impl Swift {
    /// Starts a Swift with an empty container. `None` where it cannot be had, once the reason is printed.
    pub async fn start(tls: bool) -> Result<Option<Self>> {
        if std::env::var_os(PROGRAM.cache).is_none() {
            skip("TROVE_TESTS_SWIFT is not set, so there is none; `make test` sets it");
            return Ok(None);
        }
        let (server, client) = Server::new(&PROGRAM, tls)?;
        let mut swift = Self { server, client };
        if let Some(reason) = swift.run()? {
            skip(&reason);
            return Ok(None);
        }
        let made = swift.ask(Method::PUT, "", Vec::new()).await?;
        ensure!(made.status().is_success(), "make the container: {}", made.status());
        Ok(Some(swift))
    }

    /// Starts it, or starts it again with what it has stored. Returns why it cannot run here, if it says that.
    pub fn run(&mut self) -> Result<Option<String>> {
        self.server.run()
    }

    /// Kills it with SIGKILL; what it has stored stays.
    pub fn kill(&mut self) -> Result<()> {
        self.server.kill()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.server.signal(signal)
    }

    /// Where it serves, without a path.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// A client that trusts it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A file with a secret. The service reads it at its start.
    pub fn secret_file(&self, name: &str, secret: &str) -> Result<PathBuf> {
        self.server.secret_file(name, secret)
    }

    /// Configuration of a service that keeps its backups in the container by S3's API. Its secret is in the file `secret`.
    pub fn s3_config(&self) -> Result<String> {
        let secret = self.secret_file("secret", PASSWORD)?;
        Ok(format!(
            "[backups]\nstorage = \"s3\"\nsegment_mib = 1\n[s3]\nendpoint = {:?}\nbucket = \"{CONTAINER}\"\n\
             access_key = \"{USER}\"\nsecret_key_file = {secret:?}\n{}",
            self.url(),
            self.server.ca_line()
        ))
    }

    /// The same by Swift's own API; the key that signs addresses is in the file `secret`.
    pub async fn swift_config(&self) -> Result<String> {
        let (password, key) = (self.secret_file("password", PASSWORD)?, self.secret_file("secret", SIGNING_KEY)?);
        let (token, account) = self.log_in().await?;
        let request = self.client.post(format!("{account}/{CONTAINER}")).header("x-auth-token", token);
        let set = request.header("x-container-meta-temp-url-key", SIGNING_KEY).send().await?;
        ensure!(set.status().is_success(), "set the key of TempURL: {}", set.status());
        Ok(format!(
            "[backups]\nstorage = \"swift\"\nsegment_mib = 1\n[swift]\nstorage_url = {account:?}\ncontainer = \"{CONTAINER}\"\n\
             temp_url_key_file = {key:?}\nauth_url = \"{}/auth/v1.0\"\nusername = \"{USER}\"\npassword_file = {password:?}\n{}",
            self.url(),
            self.server.ca_line()
        ))
    }

    /// A token, and the address of the account.
    async fn log_in(&self) -> Result<(String, String)> {
        let request = self.client.get(format!("{}/auth/v1.0", self.url()));
        let answer = request.header("x-auth-user", USER).header("x-auth-key", PASSWORD).send().await?;
        ensure!(answer.status().is_success(), "log in at Swift: {}", answer.status());
        let field = |name: &str| -> Result<String> {
            Ok(answer.headers().get(name).with_context(|| name.to_owned())?.to_str()?.to_owned())
        };
        // The address as this test reaches it: Swift behind TLS does not know of that.
        let (_, path) =
            field("x-storage-url")?.split_once("/v1/").map(|(a, b)| (a.to_owned(), b.to_owned())).context("a path")?;
        Ok((field("x-auth-token")?, format!("{}/v1/{path}", self.url())))
    }

    async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> Result<reqwest::Response> {
        let (token, account) = self.log_in().await?;
        let request = self.client.request(method, format!("{account}/{CONTAINER}{path}")).header("x-auth-token", token);
        Ok(request.header("content-length", body.len()).body(body).send().await?)
    }

    /// The names of the objects that begin like this, sorted.
    pub async fn objects(&self, prefix: &str) -> Result<Vec<String>> {
        let answer = self.ask(Method::GET, &format!("?format=json&prefix={prefix}"), Vec::new()).await?;
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(Vec::new());
        }
        let list: Value = serde_json::from_str(&answer.text().await?)?;
        let names = list.as_array().into_iter().flatten().filter_map(|object| object["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// What an object holds.
    pub async fn read(&self, object: &str) -> Result<Vec<u8>> {
        let answer = self.ask(Method::GET, &format!("/{object}"), Vec::new()).await?;
        ensure!(answer.status() == StatusCode::OK, "read {object}: {}", answer.status());
        Ok(answer.bytes().await?.to_vec())
    }

    /// Writes an object, whatever is there.
    pub async fn write(&self, object: &str, bytes: Vec<u8>) -> Result<()> {
        let answer = self.ask(Method::PUT, &format!("/{object}"), bytes).await?;
        ensure!(answer.status() == StatusCode::CREATED, "write {object}: {}", answer.status());
        Ok(())
    }

    /// Removes an object.
    pub async fn remove(&self, object: &str) -> Result<()> {
        let answer = self.ask(Method::DELETE, &format!("/{object}"), Vec::new()).await?;
        ensure!(answer.status() == StatusCode::NO_CONTENT, "remove {object}: {}", answer.status());
        Ok(())
    }
}

fn skip(reason: &str) {
    skipped(&format!("Swift does not run here: {reason}"));
}
