//! Registers the engines that are installed on this machine as datastore versions. Under the process driver, the
//! "image" of a version is an agent program and the directory of an engine. Registration runs in the background at the
//! start; an administrator may delete versions and register them again. Real images are registered by [`images`].

#![allow(clippy::disallowed_methods, reason = "the system's programs")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use trove_strategy::{Installation, Manifest};
use uuid::Uuid;

use crate::config::Config;
use crate::error::{Error, Result, chain};
use crate::ids::VersionId;
use crate::model::{ArtifactKind, Source};
use crate::store::Store;
use crate::store::datastores::{Registered, Registration, Unregistered};

pub mod images;

const ASK: Duration = Duration::from_secs(120);

/// Output of `trove-agent datastores`.
#[derive(Debug, Deserialize)]
struct Installed {
    name: String,
    installations: Vec<Installation>,
}

/// A request to register an installed engine.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// Name of its datastore, which is that of its strategy.
    pub datastore: String,
    /// Name of the version.
    pub name: String,
    /// Complete version number that the engine must have, if given.
    pub number: Option<String>,
    /// Id of the image, or of the installed engine, see [`Source::image_id`].
    pub image: Uuid,
    /// Whether instances of it can be created.
    pub active: bool,
    /// Whether it is the datastore's default version.
    pub default: bool,
}

/// Path of the agent program: as configured, or in the directory of the controller's program.
pub fn agent_program(config: &Config) -> Result<PathBuf> {
    if let Some(path) = &config.process.agent_program {
        return Ok(path.clone());
    }
    let own = std::env::current_exe().map_err(|error| Error::internal("find the controller's own program", error))?;
    Ok(own.with_file_name("trove-agent"))
}

/// Registers installed engines that are new or were updated, if the compute driver runs such. Failures are logged, stored
/// with their reason, and tried again at the next start.
pub async fn run(store: &Store, config: &Config, artifacts: ArtifactKind) {
    if artifacts == ArtifactKind::Image {
        return;
    }
    if let Err(error) = register_installed(store, config).await {
        tracing::error!(error = chain(&error), "the installed datastores could not be registered");
    }
}

/// Registers all installations of all datastores. The newest comes last and becomes the default. Versions that an
/// administrator deleted or deactivated stay so, and a default that was set stays. The manifest of a registered version
/// is made again only after the engine or the agent program was replaced.
pub async fn register_installed(store: &Store, config: &Config) -> Result<()> {
    let asked = async {
        let agent = Agent::of(config)?;
        let installed = agent.installed().await?;
        Ok((agent, installed))
    };
    let (agent, all) = match asked.await {
        Ok(asked) => asked,
        Err(error) => {
            store.set_unregistered(&[left_out("", None, chain(&error))]).await?;
            return Err(error);
        }
    };
    let known = store.registered().await?;
    let mut left = Vec::new();
    let only = &config.datastores.only;
    for installed in all.into_iter().filter(|installed| only.is_empty() || only.contains(&installed.name)) {
        let name = &installed.name;
        if installed.installations.is_empty() {
            tracing::warn!("{name} is not installed on this machine: it cannot be ordered");
            left.push(left_out(name, None, "It is not installed on this machine.".to_owned()));
        }
        for (age, installation) in installed.installations.iter().enumerate().rev() {
            // Compare datastore and directory, since engines of several datastores may be in one directory.
            let is_it =
                |known: &&Registered| known.datastore == *name && known.installation.bindir == installation.bindir;
            let here: Vec<&Registered> = known.iter().filter(is_it).collect();
            if here.iter().any(|known| known.removed) {
                let reason = "An administrator has taken it away: register it again as a version.";
                left.push(left_out(name, Some(installation), reason.to_owned()));
                continue;
            }
            let print = |known: &&Registered| known.agent_print.as_deref() == Some(agent.print.as_str());
            if here.iter().any(|known| known.installation == *installation && print(known)) {
                continue;
            }
            let done = async {
                let manifest = agent.manifest(name, &installation.bindir).await?;
                register(store, &agent, &manifest, &manifest.installation.major, true, age == 0 && here.is_empty())
                    .await
            };
            match done.await {
                Ok(_) => tracing::info!("registered {name} {}", installation.version),
                Err(error) => {
                    let version = &installation.version;
                    tracing::error!(error = chain(&error), "{name} {version} could not be registered");
                    left.push(left_out(name, Some(installation), chain(&error)));
                }
            }
        }
    }
    store.set_unregistered(&left).await
}

fn left_out(datastore: &str, installation: Option<&Installation>, reason: String) -> Unregistered {
    let (bindir, version) = installation
        .map(|installation| (installation.bindir.to_string_lossy().into_owned(), installation.version.clone()))
        .unwrap_or_default();
    Unregistered { datastore: datastore.to_owned(), bindir, version, reason }
}

/// Registers one installed engine on request of an administrator.
///
/// # Errors
/// 400 if no such engine is installed or it has another version; internal if its manifest cannot be made.
pub async fn register_one(store: &Store, config: &Config, order: &NewVersion) -> Result<VersionId> {
    let agent = Agent::of(config)?;
    let installed = agent.installed().await?;
    let mut of_it = installed.iter().filter(|installed| installed.name == order.datastore);
    let datastore = of_it.next().ok_or_else(|| {
        let names: Vec<&str> = installed.iter().map(|installed| installed.name.as_str()).collect();
        Error::BadRequest(format!("datastore_manager: there is none of this name; there are {}.", names.join(", ")))
    })?;
    let image = |there: &Installation| Source::Installed(there.bindir.clone()).image_id();
    let mut all = datastore.installations.iter();
    let installation = all.find(|installation| image(installation) == order.image).ok_or_else(|| {
        let there: Vec<String> = datastore
            .installations
            .iter()
            .map(|there| format!("{} ({} in {})", image(there), there.version, there.bindir.display()))
            .collect();
        let there = if there.is_empty() { "none is installed".to_owned() } else { there.join(", ") };
        Error::BadRequest(format!("image: it stands for no engine of {} on this machine: {there}.", order.datastore))
    })?;
    if order.number.as_ref().is_some_and(|number| *number != installation.version) {
        let version = &installation.version;
        return Err(Error::BadRequest(format!("version: the engine of this image is of version {version}.")));
    }
    let manifest = agent.manifest(&datastore.name, &installation.bindir).await?;
    register(store, &agent, &manifest, &order.name, order.active, order.default).await
}

/// Registers the engine in a directory where the agent does not look by itself. A second call updates the version.
/// `name` is the version's name; by default the engine's major version.
///
/// # Errors
/// 400 if another version has the name; internal if its manifest cannot be made.
pub async fn register_directory(
    store: &Store,
    config: &Config,
    datastore: &str,
    bindir: &Path,
    name: Option<&str>,
) -> Result<VersionId> {
    let bindir = std::path::absolute(bindir).map_err(|error| Error::BadRequest(format!("--bindir: {error}.")))?;
    let agent = Agent::of(config)?;
    let manifest = agent.manifest(datastore, &bindir).await?;
    let name = name.unwrap_or(&manifest.installation.major);
    check_name(store, &manifest, &Source::Installed(bindir), name).await?;
    register(store, &agent, &manifest, name, true, false).await
}

/// Refuses a name for what is registered the first time, if another version of the datastore has it.
async fn check_name(store: &Store, manifest: &Manifest, own: &Source, name: &str) -> Result<()> {
    let Some(datastore) = store.get_datastore(&manifest.identity.name).await? else { return Ok(()) };
    if datastore.versions.iter().any(|version| version.source == *own) {
        return Ok(());
    }
    let Some(other) = datastore.versions.iter().find(|version| version.name == name) else { return Ok(()) };
    Err(Error::BadRequest(format!(
        "{} has a version {name} already, {} ({}): give this one another name with --name, or take that one away.",
        datastore.name, other.id, other.number
    )))
}

async fn register(
    store: &Store,
    agent: &Agent<'_>,
    manifest: &Manifest,
    name: &str,
    active: bool,
    default: bool,
) -> Result<VersionId> {
    let mut tx = store.begin().await?;
    let agent_program = agent.config.process.agent_program.as_deref();
    let registration =
        Registration { manifest, name, image: None, agent_program, agent_print: &agent.print, active, default };
    let id = store.upsert_version(&mut tx, registration).await?;
    tx.commit().await.map_err(|error| Error::internal("register a datastore", error))?;
    Ok(id)
}

/// The agent program, which detects engines and makes manifests.
struct Agent<'a> {
    config: &'a Config,
    program: PathBuf,
    /// Fingerprint of the program's file, which changes when it is replaced.
    print: String,
}

impl<'a> Agent<'a> {
    fn of(config: &'a Config) -> Result<Self> {
        let program = agent_program(config)?;
        let facts = std::fs::metadata(&program)
            .map_err(|error| Error::internal(format!("look at {}", program.display()), error))?;
        let print = format!("{} {}.{:09}", facts.size(), facts.mtime(), facts.mtime_nsec());
        Ok(Self { config, program, print })
    }

    async fn installed(&self) -> Result<Vec<Installed>> {
        parse(&self.ask(&["datastores"]).await?)
    }

    /// Makes the manifest of an installed engine, in a scratch directory.
    async fn manifest(&self, name: &str, bindir: &Path) -> Result<Manifest> {
        let bindir = bindir.to_string_lossy().into_owned();
        let mut args = vec!["manifest", name, "--bindir", &bindir];
        if nix::unistd::geteuid().is_root() {
            args.extend(["--account", &self.config.process.engine_account]);
        }
        let printed = self.ask(&args).await?;
        Manifest::from_json(&printed).map_err(|error| Error::internal(format!("read the manifest of {name}"), error))
    }

    async fn ask(&self, args: &[&str]) -> Result<String> {
        let attempt = format!("run {} {}", self.program.display(), args.join(" "));
        let mut command = tokio::process::Command::new(&self.program);
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
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Error::internal("read what the agent program printed", error))
}

#[cfg(test)]
mod tests;
