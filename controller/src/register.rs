//! Datastores that are installed on this machine, registered in the background: an agent program and an engine's
//! directory are the "image" of a version under the process driver.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use trove_strategy::{Installation, Manifest};

use crate::config::Config;
use crate::error::{Error, Result, chain};
use crate::store::Store;
use crate::store::datastores::Registration;

const ASK: Duration = Duration::from_secs(120);

/// What `trove-agent datastores` prints.
#[derive(Debug, Deserialize)]
struct Installed {
    name: String,
    installations: Vec<Installation>,
}

/// The agent program: configured, or beside the controller's own.
///
/// # Errors
/// Internal: this program cannot be found.
pub fn agent_program(config: &Config) -> Result<PathBuf> {
    if let Some(path) = &config.process.agent_program {
        return Ok(path.clone());
    }
    let own = std::env::current_exe().map_err(|error| Error::internal("find the controller's own program", error))?;
    Ok(own.with_file_name("trove-agent"))
}

/// Registers what is installed and not registered yet, or was patched. Failures are logged and tried again at the next
/// start.
pub async fn run(store: &Store, config: &Config) {
    if let Err(error) = register_installed(store, config).await {
        tracing::error!(error = chain(&error), "the installed datastores could not be registered");
    }
}

/// Registers every installation, newest last, so that it is the default.
///
/// # Errors
/// The agent program cannot be run.
pub async fn register_installed(store: &Store, config: &Config) -> Result<()> {
    let program = agent_program(config)?;
    let known = store.list_datastores().await?;
    let list: Vec<Installed> = parse(&ask(&program, &["datastores"]).await?)?;
    for installed in list {
        if installed.installations.is_empty() {
            tracing::warn!("{} is not installed on this machine: it cannot be ordered", installed.name);
        }
        for installation in installed.installations.iter().rev() {
            let same = |manifest: &Manifest| manifest.installation == *installation;
            let mut versions = known.iter().flat_map(|datastore| &datastore.versions);
            if versions.any(|version| same(&version.manifest)) {
                continue;
            }
            let done = register(store, config, &program, &installed.name, installation).await;
            match done {
                Ok(()) => tracing::info!("registered {} {}", installed.name, installation.version),
                Err(error) => tracing::error!(
                    error = chain(&error),
                    "{} {} could not be registered",
                    installed.name,
                    installation.version
                ),
            }
        }
    }
    Ok(())
}

/// Asks one installed engine for its manifest, in a scratch directory, and registers it.
async fn register(
    store: &Store,
    config: &Config,
    program: &Path,
    name: &str,
    installation: &Installation,
) -> Result<()> {
    let bindir = installation.bindir.to_string_lossy().into_owned();
    let mut args = vec!["manifest", name, "--bindir", &bindir];
    if nix::unistd::geteuid().is_root() {
        args.extend(["--account", &config.process.engine_account]);
    }
    let manifest: Manifest = parse(&ask(program, &args).await?)?;
    let mut tx = store.begin().await?;
    let registration = Registration {
        manifest: &manifest,
        agent_program: config.process.agent_program.as_deref(),
        active: true,
        default: true,
    };
    store.upsert_version(&mut tx, registration).await?;
    tx.commit().await.map_err(|error| Error::internal("register a datastore", error))
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Error::internal("read what the agent program printed", error))
}

async fn ask(program: &Path, args: &[&str]) -> Result<String> {
    let attempt = format!("run {} {}", program.display(), args.join(" "));
    let mut command = tokio::process::Command::new(program);
    command.args(args).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LANG", "C.UTF-8");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(ASK, command.output()).await;
    let output = output.map_err(|error| Error::internal(attempt.clone(), error))?;
    let output = output.map_err(|error| Error::internal(attempt.clone(), error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Internal { attempt: format!("{attempt}: {}: {said}", output.status), source: None })
}
