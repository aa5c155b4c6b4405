//! MariaDB as its tenants see it: the engine's own client program.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Where an instance listens.
#[derive(Clone, Debug)]
pub struct MariaDb {
    address: String,
    authority: Option<PathBuf>,
}

impl MariaDb {
    /// In clear.
    ///
    /// # Errors
    /// The view has no address.
    pub fn plain(view: &Value) -> Result<Self> {
        let address = view["ip"][0].as_str().with_context(|| format!("an address in {view}"))?.to_owned();
        Ok(Self { address, authority: None })
    }

    /// With TLS; the certificate has to be signed by `authority`, a file.
    ///
    /// # Errors
    /// The view has no address.
    pub fn tls(view: &Value, authority: &Path) -> Result<Self> {
        Ok(Self { authority: Some(authority.to_owned()), ..Self::plain(view)? })
    }

    /// The client program, logged in as an account.
    pub fn client(&self, user: &str, password: &str) -> Command {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "--batch", "--skip-column-names", "--default-character-set=utf8mb4"]);
        match &self.authority {
            Some(authority) => command.arg("--ssl-verify-server-cert").arg(format!("--ssl-ca={}", authority.display())),
            None => command.arg("--skip-ssl"),
        };
        command.arg(format!("--host={}", self.address)).arg(format!("--user={user}"));
        command.env("MYSQL_PWD", password);
        command
    }

    /// Runs a statement and returns its rows.
    ///
    /// # Errors
    /// The engine refused: with its words.
    pub fn run(&self, user: &str, password: &str, sql: &str) -> Result<String> {
        let mut command = self.client(user, password);
        command.arg(format!("--execute={sql}")).stdin(Stdio::null());
        let output = command.output().context("mariadb")?;
        ensure!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
