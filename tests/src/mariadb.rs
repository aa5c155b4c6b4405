//! MariaDB as its tenants see it: the engine's own client program, with TLS.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The address of an instance, and the authority that has signed its certificate.
#[derive(Clone, Debug)]
pub struct MariaDb {
    address: String,
    authority: PathBuf,
}

impl MariaDb {
    /// Of an instance as it is shown; `authority` is a file.
    ///
    /// # Errors
    /// The view has no address.
    pub fn new(view: &Value, authority: &Path) -> Result<Self> {
        let address = view["ip"][0].as_str().with_context(|| format!("an address in {view}"))?.to_owned();
        Ok(Self { address, authority: authority.to_owned() })
    }

    /// Runs a statement and returns its rows.
    ///
    /// # Errors
    /// The engine refused: with its words.
    pub fn run(&self, user: &str, password: &str, sql: &str) -> Result<String> {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "--batch", "--skip-column-names", "--ssl-verify-server-cert"]);
        command.arg(format!("--host={}", self.address)).arg(format!("--ssl-ca={}", self.authority.display()));
        command.arg(format!("--user={user}")).arg(format!("--execute={sql}"));
        command.env("MYSQL_PWD", password).stdin(Stdio::null());
        let output = command.output().context("mariadb")?;
        ensure!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
