//! `trove-controller serve`: puts the parts of the service together and runs them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::from_fn_with_state;
use nix::sys::resource::{Resource, getrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agents::hub::Hub;
use crate::agents::{Agents, listener};
use crate::api;
use crate::app::App;
use crate::authority::Authorities;
use crate::compute::{self, Compute};
use crate::config::Config;
use crate::connections::{self, Gate, Limits, Port, Shares, Source};
use crate::directory::{Presence, StateDirectory};
use crate::error::{Error, Result, chain};
use crate::identity::{Identity, builtin};
use crate::listen::listen;
use crate::logs::LogDesk;
use crate::model::ArtifactKind;
use crate::objects::Objects;
use crate::operations::{Changes, Nudge, Runner, RunnerContext};
use crate::reconcile::controllers;
use crate::store::Store;
use crate::store::controllers::Controller;
use crate::{monitor, reconcile, register};

/// Interval in which the state directory is checked.
const LOOK: Duration = Duration::from_secs(10);
/// Time that tasks have to end at shutdown.
const GRACE: Duration = Duration::from_secs(4);

/// The storage of backups, which is to be the one that this store's backups are in. Where it is another one, or is away, it is said and
/// backups fail until that is mended.
async fn open_objects(directory: PathBuf, store: &Store, config: &Config) -> Result<Objects> {
    let known = match store.backup_storage().await? {
        Some(known) => known,
        None => {
            let found = Objects::open(directory.clone(), None, store.seal.clone(), config).await?.storage();
            store.keep_backup_storage(found).await?
        }
    };
    let objects = Objects::open(directory, Some(known), store.seal.clone(), config).await?;
    if let Err(error) = objects.check_storage().await {
        tracing::error!("backups cannot be taken, restored or removed: {}", chain(&error));
    }
    Ok(objects)
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(state: &Path, config: Config) -> Result<()> {
    logs(&config)?;
    let config = Arc::new(config);
    let directory = StateDirectory::open(state)?;
    let presence = directory.presence(directory.lock()?)?;
    let controller_id = directory.controller_id()?;
    let cors = api::cors(&config.api.cors_origins)?;
    let store = directory.store(&config).await?;
    let authorities = Arc::new(Authorities::load(&store).await?);
    let identity = Identity::open(&store, &config, directory.path()).await?;
    check_driver(&store, &config).await?;
    let compute = compute::open(directory.path(), &config).await?;
    let objects = open_objects(directory.objects(&config), &store, &config).await?;
    let api_listener = listen(&*compute, config.api.listen, "api.listen").await?;
    let agents_listener = listen(&*compute, config.agents.listen, "agents.listen").await?;
    let metrics_listener = listen_for_metrics(&*compute, &config).await?;

    let (nudge, changes, shutdown) = (Nudge::default(), Changes::default(), CancellationToken::new());
    let own =
        Controller { id: controller_id.clone(), agents_address: config.agents_address(), place: compute.location()? };
    join(&store, &own).await?;
    let desk = Arc::new(LogDesk::new(store.clone(), objects.clone(), config.clone()));
    let hub = Hub::new(store.clone(), authorities.clone(), config.clone(), controller_id.clone(), nudge.clone(), desk);
    let agents: Arc<dyn Agents> = hub.clone();
    let context = RunnerContext {
        store: store.clone(),
        agents: agents.clone(),
        compute: compute.clone(),
        authorities: authorities.clone(),
        config: config.clone(),
        objects: objects.clone(),
        controller_id,
        nudge: nudge.clone(),
        changes: changes.clone(),
    };
    let (runner, told) = (nudge.clone(), changes.clone());
    let (looked, registered) = watch::channel(false);
    let artifacts = compute.artifacts();
    check_account(&config, artifacts);
    let app = App { store: store.clone(), agents, compute, config: config.clone(), runner, changes: told, registered };
    let built_in = identity.service().map(builtin::router);
    let state = api::ApiState::new(app, identity.clone(), authorities.engines_pem().to_owned(), shutdown.clone());
    let written = from_fn_with_state(presence.clone(), api::refuse_without_state);
    let router = api::router(state, built_in).layer(written).layer(cors);

    let shares = shares()?;
    let monitor = match metrics_listener {
        Some(listener) => {
            let gate = Gate::new("the figures", shares.figures, Vec::new());
            Some(monitor::serve(listener, store.clone(), hub.clone(), objects.clone(), gate, shutdown.clone())?)
        }
        None => None,
    };
    let strangers = Gate::new("the agents' port", shares.agents, Vec::new());
    let serving = listener::serve(hub, Arc::new(objects), agents_listener, strangers, shutdown.clone());
    let mut tasks = vec![
        task("agents", shutdown.clone(), serving),
        endless(&shutdown, Runner::new(context.clone()).run(shutdown.clone())),
        endless(&shutdown, watch_over(presence, shutdown.clone())),
        endless(&shutdown, controllers::keep(store.clone(), own, shutdown.clone())),
        endless(&shutdown, controllers::listen(store.clone(), nudge, changes, shutdown.clone())),
    ];
    tasks.extend(reconcilers(context, &shutdown));
    if let Some(monitor) = monitor {
        tasks.push(endless(&shutdown, monitor));
    }
    let port = api_port(&config, api_listener, &shares)?;
    tasks.push(endless(&shutdown, connections::serve(port, router, shutdown.clone())));
    let (registrar, installed) = (store.clone(), config.clone());
    // This task is awaited at shutdown, since it may have an engine running in a scratch directory.
    tasks.push(tokio::spawn(async move {
        register::run(&registrar, &installed, artifacts).await;
        looked.send_replace(true);
    }));
    announce(&config, directory.path())?;
    wait(&shutdown).await?;
    shutdown.cancel();
    let deadline = tokio::time::Instant::now() + GRACE;
    for task in tasks {
        // Tasks that do not end in time are aborted. All of them tolerate that, as they tolerate a crash.
        let _ = tokio::time::timeout_at(deadline, task).await;
    }
    Ok(())
}

fn reconcilers(context: RunnerContext, shutdown: &CancellationToken) -> [JoinHandle<()>; 4] {
    [
        endless(shutdown, reconcile::backups::run(context.clone(), shutdown.clone())),
        endless(shutdown, reconcile::schedules::run(context.clone(), shutdown.clone())),
        endless(shutdown, reconcile::squatters::run(context.clone(), shutdown.clone())),
        endless(shutdown, reconcile::run(context, shutdown.clone())),
    ]
}

/// Refuses a driver that cannot have made the hosts of the instances that there are: it would take them for gone.
async fn check_driver(store: &Store, config: &Config) -> Result<()> {
    let unfit = store.list_unfit(compute::artifacts(config)?).await?;
    let Some(first) = unfit.first() else { return Ok(()) };
    let (name, count) = (&config.compute, unfit.len());
    Err(Error::Conflict(format!(
        "compute: the driver {name:?} cannot run instances that another driver made, and there are {count}, such as {first}. Set \
         compute to what it was; to change it, delete them first."
    )))
}

/// The metrics' port, if there is one.
async fn listen_for_metrics(compute: &dyn Compute, config: &Config) -> Result<Option<TcpListener>> {
    match config.metrics.listen {
        Some(address) => Ok(Some(listen(compute, address, "metrics.listen").await?)),
        None => Ok(None),
    }
}

/// Registers this controller with the shared store.
async fn join(store: &Store, own: &Controller) -> Result<()> {
    if let Some(place) = &own.place
        && let Some(other) = store.controller_elsewhere(&own.id, place).await?
    {
        return Err(Error::Conflict(format!(
            "Controller {other} shares this store, and keeps its hosts in another directory or on another machine. With \
             the process driver every controller runs on one machine: set process.hosts_dir to the same directory for all."
        )));
    }
    store.put_controller(own, controllers::LIFETIME).await
}

/// Checks the state directory periodically, so that its loss is logged even without requests.
async fn watch_over(presence: Arc<Presence>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        // `check` has logged the error.
        let _ = presence.check();
    }
}

/// Standard error, with each event on one line: an engine's words, which a tenant decides, may have returns and line feeds.
struct Lines;

impl Write for Lines {
    /// The log writes one event at a time.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(&one_line(event))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn one_line(event: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(event.len());
    for byte in event.strip_suffix(b"\n").unwrap_or(event) {
        match byte {
            0..0x20 | 0x7f if *byte != b'\t' => line.extend(byte.escape_ascii()),
            _ => line.push(*byte),
        }
    }
    line.push(b'\n');
    line
}

fn logs(config: &Config) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log.filter)
        .map_err(|error| Error::BadRequest(format!("log.filter is wrong: {error}.")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Lines).with_ansi(false);
    // A log line that cannot be written, for example on a full disk, is lost. With `log_internal_errors` the failed
    // write of the error message would panic in the thread that logs.
    let builder = builder.log_internal_errors(false);
    let done = if config.log.json { builder.json().try_init() } else { builder.try_init() };
    done.map_err(|error| Error::internal("set up the log", error))
}

/// Logs what the account of this service means for the engines, where they run on this machine.
fn check_account(config: &Config, artifacts: ArtifactKind) {
    if artifacts == ArtifactKind::Image {
        return;
    }
    let account = &config.process.engine_account;
    if !nix::unistd::geteuid().is_root() {
        tracing::warn!(
            "this service does not run as root: engines run as the same account, without limits of memory, and root \
             cannot be enabled on an instance unless process.allow_root is set"
        );
    } else if !matches!(nix::unistd::User::from_name(account), Ok(Some(_))) {
        tracing::error!(
            "the account {account} (process.engine_account), which runs engines while manifests are made, is not there: useradd --system \
             --user-group --no-create-home --shell /usr/sbin/nologin {account}"
        );
    }
}

/// Spawns a task whose failure ends the service.
fn task(
    name: &'static str,
    shutdown: CancellationToken,
    work: impl Future<Output = Result<()>> + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = work.await {
            tracing::error!(error = chain(&error), "{name} cannot go on");
        }
        shutdown.cancel();
    })
}

/// Spawns a task that runs until shutdown.
fn endless(shutdown: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        work.await;
        shutdown.cancel();
    })
}

/// The API's port, with the configured limits or else those derived from the limit of open files.
fn api_port(config: &Config, listener: TcpListener, shares: &Shares) -> Result<Port> {
    let api = &config.api;
    let tls = match (&api.tls_certificate, &api.tls_key) {
        (Some(certificate), Some(key)) => Some(api::tls::acceptor(certificate, key)?),
        _ => None,
    };
    let all = api.max_connections.unwrap_or(shares.api.all);
    let source = api.max_connections_per_source.unwrap_or(shares.api.source.min(all));
    let proxies = api.trusted_proxies.iter().copied().map(Source::of).collect();
    let gate = Gate::new("the API", Limits { all, source }, proxies);
    Ok(Port { listener, tls, gate, idle: api.idle_timeout })
}

/// Limits of connections, derived from the limit of open files.
fn shares() -> Result<Shares> {
    let limit = getrlimit(Resource::RLIMIT_NOFILE);
    let (descriptors, _) = limit.map_err(|error| Error::internal("read the limit of open files", error))?;
    Ok(Shares::of(descriptors))
}

/// Prints the line on standard output that says that the service is ready. Its reader may close the pipe afterwards.
fn announce(config: &Config, state: &Path) -> Result<()> {
    let line = format!(
        "trove-controller serves {} (agents {}, state {})\n",
        config.public_url(),
        config.agents_address(),
        state.display()
    );
    let mut stdout = std::io::stdout();
    stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| Error::internal("print", error))
}

async fn wait(shutdown: &CancellationToken) -> Result<()> {
    let failed = |error| Error::internal("wait for signals", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = shutdown.cancelled() => Err(Error::Internal { attempt: "a part of the service ended; the log says why".to_owned(), source: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::store::fixture;

    #[tokio::test]
    async fn a_driver_that_cannot_have_made_the_instances_is_refused() {
        let fixture = fixture().await;
        let with = |driver: &str| Config { compute: driver.to_owned(), ..Config::default() };
        check_driver(&fixture.store, &with("docker")).await.unwrap();
        let instance = fixture.insert("demo").await;
        check_driver(&fixture.store, &with("process")).await.unwrap();
        let refused = check_driver(&fixture.store, &with("docker")).await.unwrap_err().to_string();
        assert!(refused.contains("\"docker\"") && refused.contains(&instance.to_string()), "{refused}");
        fixture.store.change("update datastore_version set image = '{}'").await;
        assert!(check_driver(&fixture.store, &with("process")).await.is_err());
        check_driver(&fixture.store, &with("docker")).await.unwrap();
        fixture.store.change("update instance set deleted = 1").await;
        check_driver(&fixture.store, &with("process")).await.unwrap();
    }

    #[test]
    fn an_event_of_the_log_is_one_line() {
        assert_eq!(
            one_line("said: \"a\r\nb\"\tj\u{fc}rgen\n".as_bytes()),
            "said: \"a\\r\\nb\"\tj\u{fc}rgen\n".as_bytes()
        );
        assert_eq!(one_line(b"\x1b[2J"), b"\\x1b[2J\n");
    }
}
