//! Redis as tenants use it, with redis-cli.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The ports of an instance.
#[derive(Clone, Debug)]
pub struct Redis {
    address: String,
    authority: Option<PathBuf>,
}

impl Redis {
    /// The port without TLS.
    pub fn plain(view: &Value) -> Result<Self> {
        let address = view["ip"][0].as_str().with_context(|| format!("an address in {view}"))?.to_owned();
        Ok(Self { address, authority: None })
    }

    /// The port with TLS. Its certificate must be signed by the authority in the file `authority`.
    pub fn tls(view: &Value, authority: &Path) -> Result<Self> {
        Ok(Self { authority: Some(authority.to_owned()), ..Self::plain(view)? })
    }

    /// A command for redis-cli, logged in as an account.
    pub fn client(&self, user: &str, password: &str) -> Command {
        let mut command = Command::new("redis-cli");
        command.args(["-e", "--no-auth-warning", "-h", &self.address, "--user", user]);
        match &self.authority {
            Some(authority) => command.args(["-p", "6380", "--tls", "--cacert"]).arg(authority),
            None => command.args(["-p", "6379"]),
        };
        command.env("REDISCLI_AUTH", password).stdin(Stdio::null());
        command
    }

    /// Runs a command and returns its answer.
    pub fn run(&self, user: &str, password: &str, words: &[&str]) -> Result<String> {
        let output = self.client(user, password).args(words).output().context("redis-cli")?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let complained = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(output.status.success() && complained.is_empty(), "{words:?}: {said} {complained}");
        Ok(said)
    }
}
