//! A real Swift for a test, with a container that its own API and S3's reach, and what a service needs to keep backups there.

use std::io::{BufRead, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

use crate::keystone::certify;

const PORT: u16 = 8080;
const USER: &str = "trove:backups";
const PASSWORD: &str = "backups-secret";
/// The key of TempURL.
pub const SIGNING_KEY: &str = "temp-url-secret";
const CONTAINER: &str = "backups";

/// A Swift in its own directory. Dropping it stops it.
pub struct Swift {
    directory: TempDir,
    address: Ipv4Addr,
    tls: bool,
    child: Option<Child>,
    client: Client,
}

impl Swift {
    /// Starts a Swift with an empty container. `None` where it cannot be had, once the reason is printed.
    pub async fn start(tls: bool) -> Result<Option<Self>> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        if std::env::var_os("TROVE_TESTS_SWIFT").is_none() {
            skip("TROVE_TESTS_SWIFT is not set, so there is none; `make test` sets it");
            return Ok(None);
        }
        let directory = tempfile::Builder::new().prefix("trove-swift-").tempdir()?;
        let address = Ipv4Addr::new(127, rand::random_range(128..=254), rand::random(), rand::random_range(1..=254));
        let mut builder = Client::builder().pool_max_idle_per_host(0);
        if tls {
            certify(directory.path(), address)?;
            let pem = std::fs::read(directory.path().join("ca.pem"))?;
            builder = builder.tls_certs_only([reqwest::Certificate::from_pem(&pem)?]);
        }
        let mut swift = Self { directory, address, tls, child: None, client: builder.build()? };
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
        let cache = std::env::var_os("TROVE_TESTS_SWIFT").context("TROVE_TESTS_SWIFT is not set; run `make test`")?;
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/swift.sh"));
        command.arg("serve").arg(cache).arg(self.state()).arg(self.address.to_string()).arg(PORT.to_string());
        if self.tls {
            command.arg(self.directory.path().join("server.pem")).arg(self.directory.path().join("server.key"));
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start Swift")?;
        let stdout = child.stdout.take().context("read Swift's output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.trim() == "serves" {
            self.child = Some(child);
            return Ok(None);
        }
        let status = child.wait()?;
        if status.code() == Some(75) {
            return Ok(Some(line.trim().to_owned()));
        }
        let log = std::fs::read_to_string(self.state().join("serve.log")).unwrap_or_default();
        bail!("Swift did not come up ({status}): {log}")
    }

    /// Kills it with SIGKILL; what it has stored stays.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("Swift does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("Swift does not run")?;
        Ok(kill(Pid::from_raw(i32::try_from(child.id())?), signal)?)
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Where it serves, without a path.
    pub fn url(&self) -> String {
        format!("{}://{}:{PORT}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// A client that trusts it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The lines of a configuration that name its authority, where it has one.
    fn ca_line(&self) -> String {
        if self.tls { format!("ca_file = {:?}\n", self.directory.path().join("ca.pem")) } else { String::new() }
    }

    /// A file with a secret. The service reads it at its start.
    pub fn secret_file(&self, name: &str, secret: &str) -> Result<PathBuf> {
        let file = self.directory.path().join(name);
        std::fs::write(&file, format!("{secret}\n"))?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        Ok(file)
    }

    /// Configuration of a service that keeps its backups in the container by S3's API. Its secret is in the file `secret`.
    pub fn s3_config(&self) -> Result<String> {
        let secret = self.secret_file("secret", PASSWORD)?;
        Ok(format!(
            "[backups]\nstorage = \"s3\"\nsegment_mib = 1\n[s3]\nendpoint = {:?}\nbucket = \"{CONTAINER}\"\n\
             access_key = \"{USER}\"\nsecret_key_file = {secret:?}\n{}",
            self.url(),
            self.ca_line()
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
            self.ca_line()
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
    let _ = writeln!(std::io::stderr(), "skipped: Swift does not run here: {reason}");
}

impl Drop for Swift {
    fn drop(&mut self) {
        if self.child.is_some() {
            // Nothing can be done about a failure here.
            let _ = self.kill();
        }
    }
}
