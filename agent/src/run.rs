//! `trove-agent run`: puts the parts of the agent together and runs until a signal comes.

#![allow(clippy::disallowed_methods, reason = "the lock lies in a directory of the agent alone")]

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Uid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::info;
use trove_proto::ALPN_AGENT;
use trove_strategy::{Account, Datastore, Installation, Places, RealHost, Site, Size};

use crate::Agent;
use crate::assignment::AssignmentStore;
use crate::bounded::Bounded;
use crate::config::Config;
use crate::dial::dial;
use crate::durable::Durable;
use crate::enrol;
use crate::freeze;
use crate::guest;
use crate::identity::Identity;
use crate::jobs::Jobs;
use crate::journal::Journal;
use crate::link;
use crate::logs::{Desk, Shipper};
use crate::objects::{Limits, Objects};
use crate::output_log::OutputLog;
use crate::process::Signs;
use crate::service::Services;
use crate::supervisor::{self, Parts, SupervisedEngine as _, Supervisor};
use crate::volume;
use crate::work::EngineWork;

/// Runs until SIGTERM, which leaves the engine running, or SIGINT, which stops the engine first.
pub async fn run(agent: Agent, config: Config) -> Result<()> {
    info!(instance = %config.instance_id, version = env!("CARGO_PKG_VERSION"), "the agent starts");
    // Engines inherit the umask, so files that they create are readable by their account only.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let files = Durable::open(&config.state_dir)?;
    let _lock = lock(&files)?;
    tokio::spawn(OutputLog::of_agent(&config.log_dir).keep_short());
    freeze::thaw(&config.engine_cgroups);
    let datastore = agent.datastore(&config.datastore);
    let datastore = datastore.with_context(|| format!("this agent has no datastore {}", config.datastore))?;
    let (engine, agent) = accounts(&config)?;
    let ports = std::iter::once(config.port).chain(datastore.identity().tls_port);
    let confined = |host: RealHost| match guest::confinement(&config, ports.clone()) {
        Some(confinement) => host.confined(confinement),
        None => host,
    };
    let probing = confined(RealHost::new(engine.clone(), agent.clone()));
    let installation = installation(&config, datastore.as_ref(), &probing).await?;
    let places = places(&config, &installation);
    let host = confined(RealHost::for_site(engine, agent, &places).context("make the guest's directories")?);
    let site = site(&config, installation, places, &host);
    let datastore: Arc<dyn Datastore> = Arc::new(Bounded::new(datastore));
    let assignments = Arc::new(AssignmentStore::open(files.clone())?);
    let log = OutputLog::of_engine(&config.log_dir);
    tokio::spawn(log.clone().keep_short());
    let size = {
        let (assigned, site) = (assignments.assigned(), site.clone());
        move || supervisor::volume_bytes(&assigned.borrow(), &site)
    };
    let signs = Signs::new(&host, &site.data, &log.path());
    let used = volume::watch(config.volume_dir.clone(), log.clone(), signs, size);
    let parts = Parts {
        datastore: datastore.clone(),
        site: site.clone(),
        host,
        files: files.clone(),
        assignments: assignments.clone(),
        log,
        used: used.clone(),
    };
    let supervisor = supervisor::spawn(parts).await?;
    let identity = Identity::open(files.clone(), &config.authority_file)?;
    let journal = Journal::open(&files.path("jobs"))?;
    let objects = Objects::new(identity.clone(), assignments.clone(), config.controllers.clone(), Limits::default());
    let objects = Arc::new(objects);
    let (log_desk, log_trouble) = ship(&datastore, &site, &supervisor, &assignments, &objects);
    let work = EngineWork {
        datastore: datastore.clone(),
        site: site.clone(),
        supervisor: supervisor.clone(),
        assignments: assignments.clone(),
        objects,
    };
    let jobs = Jobs::new(Arc::new(work), assignments.clone(), journal);
    let services = Arc::new(Services {
        datastore,
        site,
        supervisor: Arc::new(supervisor.clone()),
        assignments,
        jobs: Arc::new(jobs),
        identity: identity.clone(),
        used,
        cgroups: if config.engine_cgroups.is_empty() { &config.cgroups } else { &config.engine_cgroups }.clone(),
        first_controllers: config.controllers.clone(),
        boot_id: uuid::Uuid::new_v4().to_string(),
        size: Size { memory_mib: config.memory_mib, vcpus: config.vcpus, volume_gib: config.volume_gib },
        log_desk,
        log_trouble,
        reports: AtomicU64::new(0),
    });
    let links = serve(config, identity, services);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        ended = links => ended,
        _ = terminate.recv() => {
            info!("told to end: the engine goes on");
            Ok(())
        }
        _ = interrupt.recv() => pause(&supervisor).await,
    }
}

/// Begins to ship the log of writes whenever the assignment says so. Answers where it asks, and what is in its way.
fn ship(
    datastore: &Arc<dyn Datastore>,
    site: &Site,
    supervisor: &Supervisor,
    assignments: &Arc<AssignmentStore>,
    objects: &Arc<Objects>,
) -> (Arc<Desk>, watch::Receiver<String>) {
    let (desk, (trouble, told)) = (Arc::<Desk>::default(), watch::channel(String::new()));
    let shipper = Shipper {
        datastore: datastore.clone(),
        site: site.clone(),
        status: supervisor.status(),
        assignments: assignments.clone(),
        objects: objects.clone(),
        desk: desk.clone(),
        trouble,
    };
    tokio::spawn(shipper.run());
    (desk, told)
}

/// Enrols if needed, and keeps a connection to every controller.
async fn serve(config: Config, identity: Identity, services: Arc<Services>) -> Result<()> {
    enrol::enrol_once(&config.controllers, &identity, &config.token_file).await?;
    let renewing = services.clone();
    let dial = move |address: String| {
        let services = renewing.clone();
        async move {
            services.renew_when_expired().await?;
            dial(&address, &services.identity, ALPN_AGENT).await
        }
    };
    link::keep_all(services, dial).await;
    Ok(())
}

/// Stops the engine, but keeps it recorded as wanted, so that the next agent starts it.
async fn pause(supervisor: &Supervisor) -> Result<()> {
    info!("told to end with the engine");
    let stopped = supervisor.stop_for_a_while().await;
    stopped.map_err(|error| anyhow::anyhow!(error.chain()))
}

/// Locks the state directory, so that no second agent manages the same engine.
fn lock(files: &Durable) -> Result<nix::fcntl::Flock<std::fs::File>> {
    let path = files.path("lock");
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    let locked = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock);
    locked.map_err(|(_, errno)| anyhow::anyhow!("{}: another agent runs here ({errno})", path.display()))
}

/// The accounts of the engine and of the agent.
fn accounts(config: &Config) -> Result<(Account, Account)> {
    let agent = Account::own().context("look up the account of this process")?;
    let engine = match config.engine_uid {
        // The compute driver gives the account this name in the guest's /etc/passwd.
        Some(uid) => Account { name: "os_admin".to_owned(), uid: Uid::from_raw(uid), gid: Gid::from_raw(uid) },
        None => agent.clone(),
    };
    if engine.uid.is_root() {
        bail!("engines do not run as root: give one an account in `engine_uid`");
    }
    Ok((engine, agent))
}

async fn installation(config: &Config, datastore: &dyn Datastore, host: &RealHost) -> Result<Installation> {
    let found = datastore.installations(host, config.bindir.as_deref()).await;
    let found = found.map_err(|error| anyhow::anyhow!(error.chain())).context("look for the engine")?;
    let wanted = |major: &String| config.major.as_ref().is_none_or(|wanted| wanted == major);
    let installation = found.into_iter().find(|installation| wanted(&installation.major));
    installation.with_context(|| format!("{} is not installed here", config.datastore))
}

fn places(config: &Config, installation: &Installation) -> Places {
    Places {
        data: config.volume_dir.join(&installation.major),
        config: config.config_dir.clone(),
        run: config.run_dir.clone(),
        log: config.log_dir.clone(),
        secrets: config.state_dir.join("secrets"),
    }
}

fn site(config: &Config, installation: Installation, places: Places, host: &RealHost) -> Site {
    let size = Size { memory_mib: config.memory_mib, vcpus: config.vcpus, volume_gib: config.volume_gib };
    Site::new(installation, places, config.address, config.port, size, host)
}
