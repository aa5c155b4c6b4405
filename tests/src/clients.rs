//! The unmodified OpenStack clients, from their virtual environment.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The clients of one stack, as one cloud.
pub struct Clients {
    bin: PathBuf,
    clouds: PathBuf,
    cloud: String,
}

impl Clients {
    /// Clients that read `clouds`. Their programs are where `TROVE_CLIENTS_BIN` says, which `make test` sets.
    ///
    /// # Errors
    /// The variable is not set: a test without its clients does not pass silently.
    pub fn new(clouds: &Path, cloud: &str) -> Result<Self> {
        let bin = std::env::var_os("TROVE_CLIENTS_BIN").context("TROVE_CLIENTS_BIN is not set; run `make test`")?;
        Ok(Self { bin: bin.into(), clouds: clouds.to_owned(), cloud: cloud.to_owned() })
    }

    /// Runs `openstack` and returns what it prints.
    ///
    /// # Errors
    /// It ended with another status than 0.
    pub fn openstack(&self, args: &[&str]) -> Result<String> {
        let (ok, text) = self.try_openstack(args)?;
        if !ok {
            bail!("openstack {args:?}: {text}");
        }
        Ok(text)
    }

    /// Runs `openstack … -f json` and returns what it prints, parsed.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let args: Vec<&str> = args.iter().copied().chain(["-f", "json"]).collect();
        let text = self.openstack(&args)?;
        serde_json::from_str(&text).with_context(|| format!("openstack {args:?} printed {text}"))
    }

    /// Runs `openstack`; whether it succeeded, and what it printed (both streams when it failed).
    pub fn try_openstack(&self, args: &[&str]) -> Result<(bool, String)> {
        self.run(Command::new(self.bin.join("openstack")).arg("--os-cloud").arg(&self.cloud).args(args))
    }

    /// Runs a Python script of tests/clients with the clients' libraries.
    ///
    /// # Errors
    /// It ended with another status than 0.
    pub fn python(&self, script: &str, args: &[&str]) -> Result<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
        let (ok, text) = self.run(Command::new(self.bin.join("python")).arg(path).arg(&self.cloud).args(args))?;
        if !ok {
            bail!("{script}: {text}");
        }
        Ok(text)
    }

    /// Runs another program of the environment and returns what it prints. It runs beside the clouds file, so that what it
    /// leaves behind goes with the stack.
    ///
    /// # Errors
    /// It ended with another status than 0.
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
