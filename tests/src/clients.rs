//! The unmodified OpenStack clients, from a virtual environment.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The clients, configured for one entry of a clouds file.
pub struct Clients {
    bin: PathBuf,
    clouds: PathBuf,
    cloud: String,
}

impl Clients {
    /// Clients that use the file `clouds`. `TROVE_CLIENTS_BIN`, which `make test` sets, names their directory; it is an
    /// error if it is not set, so that a test does not pass without clients.
    pub fn new(clouds: &Path, cloud: &str) -> Result<Self> {
        let bin = std::env::var_os("TROVE_CLIENTS_BIN").context("TROVE_CLIENTS_BIN is not set; run `make test`")?;
        Ok(Self { bin: bin.into(), clouds: clouds.to_owned(), cloud: cloud.to_owned() })
    }

    /// Runs `openstack`, which must succeed, and returns its output.
    pub fn openstack(&self, args: &[&str]) -> Result<String> {
        let (ok, text) = self.try_openstack(args)?;
        if !ok {
            bail!("openstack {args:?}: {text}");
        }
        Ok(text)
    }

    /// Runs `openstack … -f json` and returns its parsed output.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let args: Vec<&str> = args.iter().copied().chain(["-f", "json"]).collect();
        let text = self.openstack(&args)?;
        serde_json::from_str(&text).with_context(|| format!("openstack {args:?} printed {text}"))
    }

    /// Runs `openstack`. Returns whether it succeeded, and its output (both streams if it failed).
    pub fn try_openstack(&self, args: &[&str]) -> Result<(bool, String)> {
        self.run(Command::new(self.bin.join("openstack")).arg("--os-cloud").arg(&self.cloud).args(args))
    }

    /// Runs a Python script of tests/clients with the clients' libraries; it must succeed.
    pub fn python(&self, script: &str, args: &[&str]) -> Result<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
        let (ok, text) = self.run(Command::new(self.bin.join("python")).arg(path).arg(&self.cloud).args(args))?;
        if !ok {
            bail!("{script}: {text}");
        }
        Ok(text)
    }

    /// Runs another program of the environment, which must succeed, and returns its output. Its working directory is
    /// that of the clouds file, so that files that it writes are removed with the stack.
    pub fn program(&self, name: &str, args: &[&str]) -> Result<String> {
        let directory = self.clouds.parent().context("the directory of the clouds file")?;
        let (ok, text) = self.run(Command::new(self.bin.join(name)).args(args).current_dir(directory))?;
        if !ok {
            bail!("{name} {args:?}: {text}");
        }
        Ok(text)
    }

    fn run(&self, command: &mut Command) -> Result<(bool, String)> {
        command.env("OS_CLIENT_CONFIG_FILE", &self.clouds).env_remove("OS_CLOUD");
        let output = command.output().with_context(|| format!("start {command:?}"))?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            text.push_str(&String::from_utf8_lossy(&output.stderr));
        }
        Ok((output.status.success(), text))
    }
}
