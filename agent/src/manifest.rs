//! Makes the manifest of a datastore: starts the installed engine in a scratch directory and queries it.

#![allow(clippy::disallowed_methods, reason = "a scratch directory of its own, before anything is in it")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use trove_strategy::{
    Datastore, Described, EngineError, FirstStart, Installation, Manifest, Places, RealHost, Settings, Site, Size,
    StartMode,
};

use crate::Agent;
use crate::process::Process;

/// A datastore of this program and its installed versions.
#[derive(Debug, Serialize)]
pub struct Installed {
    pub name: String,
    /// Installed versions, newest first.
    pub installations: Vec<Installation>,
}

/// The datastores of this program. It is an error if an engine is installed and does not report its version.
pub async fn installed(agent: &Agent, host: &RealHost) -> Result<Vec<Installed>> {
    let mut list = Vec::new();
    for datastore in agent.datastores() {
        let installations = datastore.installations(host, None).await.map_err(plain)?;
        list.push(Installed { name: datastore.identity().name, installations });
    }
    Ok(list)
}

/// Makes the manifest. The engine is started without a network listener, and everything is removed afterwards.
pub async fn make(datastore: &dyn Datastore, host: &RealHost, bindir: Option<&Path>) -> Result<Manifest> {
    let found = datastore.installations(host, bindir).await.map_err(plain)?;
    let installation = found.into_iter().next();
    let installation = installation.with_context(|| format!("{} is not installed", datastore.identity().name))?;
    let mut described = Described::default();
    if datastore.parameters().is_some() || datastore.databases().is_some() {
        // The path must be short, since a socket's path has at most 107 bytes.
        let scratch = tempfile::Builder::new().prefix("trove-").tempdir().context("make a scratch directory")?;
        let (site, host) = scratch_site(scratch.path(), datastore, installation.clone(), host)?;
        let started = started(datastore, &site, &host).await;
        let (mut process, asked) = match started {
            Ok(mut process) => {
                let asked = ask(datastore, &site, &mut process).await;
                (process, asked)
            }
            Err(error) => return Err(error),
        };
        let spec = datastore.engine().start_spec(&site, &Settings::default(), StartMode::Private);
        process.stop(spec.stop, spec.stop_deadline).await;
        described = asked?;
    }
    Ok(Manifest::derive(datastore, installation, described))
}

fn plain(error: EngineError) -> anyhow::Error {
    anyhow::anyhow!(error.chain())
}

fn scratch_site(
    scratch: &Path,
    datastore: &dyn Datastore,
    installation: Installation,
    host: &RealHost,
) -> Result<(Site, RealHost)> {
    // The engine's account must be able to traverse it. The directories below are closed to others.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(scratch, open).context("open the scratch directory")?;
    let at = |name: &str| scratch.join(name);
    let data = at("v").join(&installation.major);
    let places = Places { data, config: at("etc"), run: at("run"), log: at("log"), secrets: at("s") };
    let host = RealHost::for_site(host.engine.clone(), host.agent.clone(), &places)?;
    let (address, port) = ([127, 0, 0, 1].into(), datastore.identity().port);
    let size = Size { memory_mib: 512, vcpus: 1, volume_gib: 1 };
    let site = Site::new(installation, places, address, port, size, &host);
    Ok((site, host))
}

async fn started(datastore: &dyn Datastore, site: &Site, host: &RealHost) -> Result<Process> {
    let engine = datastore.engine();
    let first = engine.initialise(site).await.map_err(plain)?;
    crate::certificate::write_certificate(site, Some(&scratch_certificate()?)).await.map_err(plain)?;
    engine.configure(site, &Settings::default()).await.map_err(plain)?;
    let spec = engine.start_spec(site, &Settings::default(), StartMode::Private);
    let mut process = Process::start(&spec, host, &site.log.join("engine.log"))?;
    if first == FirstStart::Private {
        answer(datastore, site, &mut process, true).await?;
    }
    Ok(process)
}

/// A self-signed certificate for the scratch engine.
fn scratch_certificate() -> Result<trove_proto::v1::EngineCertificate> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).context("make a certificate")?;
    let certificate_pem = made.cert.pem();
    let key_pem = made.signing_key.serialize_pem();
    Ok(trove_proto::v1::EngineCertificate { authority_pem: certificate_pem.clone(), certificate_pem, key_pem })
}

/// Waits until the engine answers. With `secure` each try is a call of `secure`, which makes the first account.
async fn answer(datastore: &dyn Datastore, site: &Site, process: &mut Process, secure: bool) -> Result<()> {
    let engine = datastore.engine();
    let asking = async {
        loop {
            let asked = if secure { engine.secure(site).await } else { engine.probe(site).await.map(|_| ()) };
            match asked {
                Ok(()) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(30)).await,
            }
        }
    };
    tokio::select! {
        () = asking => Ok(()),
        how = process.ended() => anyhow::bail!("the engine ended while it started: {how}"),
        () = tokio::time::sleep(Duration::from_secs(60)) => anyhow::bail!("the engine did not answer within 60 s"),
    }
}

async fn ask(datastore: &dyn Datastore, site: &Site, process: &mut Process) -> Result<Described> {
    answer(datastore, site, process, false).await?;
    let mut described = Described::default();
    if let Some(parameters) = datastore.parameters() {
        described.parameters = parameters.describe(site).await.map_err(plain)?;
    }
    if let Some(databases) = datastore.databases() {
        described.character_sets = databases.character_sets(site).await.map_err(plain)?;
    }
    Ok(described)
}
