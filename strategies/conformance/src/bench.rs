//! A site in a scratch directory, and an engine on it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use trove_strategy::{
    Account, Datastore, File, FirstStart, Host, Owner, Places, RealHost, Settings, Site, Size, StartMode, StopSignal,
    TlsFiles, Trusted,
};

/// A datastore with a site of its own.
pub struct Bench<'a> {
    /// The strategy.
    pub datastore: &'a dyn Datastore,
    /// Where its engine lives.
    pub site: Site,
    host: RealHost,
    scratch: TempDir,
}

/// An engine that runs.
pub struct Running {
    child: Child,
    _trusted: Trusted,
}

fn plain(error: trove_strategy::EngineError) -> anyhow::Error {
    anyhow::anyhow!(error.chain())
}

impl<'a> Bench<'a> {
    /// A site of the newest version that is installed, for the account `trove` when this is root.
    ///
    /// # Errors
    /// The engine is not installed, or the account is missing.
    pub async fn new(datastore: &'a dyn Datastore) -> Result<Self> {
        let agent = Account::own()?;
        let engine = if agent.uid.is_root() {
            Account::named("trove").context("as root the suite needs the account `trove`: make setup makes it")?
        } else {
            agent.clone()
        };
        let programs = RealHost::new(engine.clone(), agent.clone());
        let installation = datastore.installations(&programs, None).await.map_err(plain)?.into_iter().next();
        let installation = installation.context("the engine is not installed")?;
        // Short: a socket's path has at most 107 bytes.
        let scratch = tempfile::Builder::new().prefix("trove-c-").tempdir()?;
        let at = |name: &str| scratch.path().join(name);
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(scratch.path(), open)?;
        let data = at("v").join(&installation.major);
        let places = Places { data, config: at("etc"), run: at("run"), log: at("l"), secrets: at("s") };
        let host = RealHost::for_site(engine, agent, &places)?;
        // Drawn from so many that two suites do not meet.
        let address = Ipv4Addr::new(127, rand::random_range(32..=63), rand::random(), rand::random_range(1..=254));
        let site = Site {
            installation,
            data: places.data.join("data"),
            config: places.config,
            run: places.run,
            log: places.log,
            secrets: places.secrets,
            address: IpAddr::V4(address),
            port: datastore.identity().port,
            size: Size { memory_mib: 512, vcpus: 1, volume_gib: 1 },
            tls: TlsFiles::default(),
            engine_account: host.engine.name.clone(),
            agent_account: host.agent.name.clone(),
            host: Arc::new(host.clone()),
        };
        let bench = Self { datastore, site, host, scratch };
        bench.write_certificate(address).await?;
        Ok(bench)
    }

    async fn write_certificate(&self, address: Ipv4Addr) -> Result<()> {
        let made = rcgen::generate_simple_self_signed(vec![address.to_string()])?;
        let tls = &self.site.tls;
        for (at, pem) in [
            (&tls.certificate, made.cert.pem()),
            (&tls.authority, made.cert.pem()),
            (&tls.key, made.signing_key.serialize_pem()),
        ] {
            let file = File { at: at.clone(), contents: pem.into_bytes(), mode: 0o640, owner: Owner::Agent };
            self.host.write(file).await?;
        }
        Ok(())
    }

    /// The engine's output so far, for messages.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default()
    }

    /// A directory that goes with the bench.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Starts the engine's process and does not wait for an answer.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(&self, mode: StartMode) -> Result<Running> {
        let spec = self.datastore.engine().start_spec(&self.site, mode);
        let log = std::fs::File::options().create(true).append(true).open(self.scratch.path().join("log"))?;
        let mut command = self.host.command(&spec.program, Owner::Engine);
        command.args(&spec.args).env_clear().env("PATH", "/usr/bin:/bin").env("LANG", "C.UTF-8");
        command.envs(spec.env.iter().map(|(name, value)| (name, value))).current_dir("/");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {}", spec.program.display()))?;
        let trusted = self.host.trust(i32::try_from(child.id())?);
        Ok(Running { child, _trusted: trusted })
    }

    /// Waits until the engine answers.
    ///
    /// # Errors
    /// It ended, or did not within a minute: with its output.
    pub async fn await_answer(&self, running: &mut Running) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match self.datastore.engine().probe(&self.site).await {
                Ok(_) => return self.datastore.engine().check_start(&self.log()).map_err(plain),
                Err(error) if Instant::now() > end => bail!("no answer: {}\n{}", error.chain(), self.log()),
                Err(_) => {}
            }
            if let Some(status) = running.child.try_wait()? {
                bail!("the engine ended: {status}\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Does all of a first start, and starts the engine for tenants.
    ///
    /// # Errors
    /// The strategy's.
    pub async fn start(&self) -> Result<Running> {
        let engine = self.datastore.engine();
        let first = engine.initialise(&self.site).await.map_err(plain)?;
        engine.configure(&self.site, &Settings::default()).await.map_err(plain)?;
        if first == FirstStart::Private {
            let mut private = self.spawn(StartMode::Private)?;
            let end = Instant::now() + Duration::from_secs(60);
            while let Err(error) = engine.secure(&self.site).await {
                if Instant::now() > end {
                    bail!("cannot be secured: {}\n{}", error.chain(), self.log());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            private.end(self).await?;
        }
        let mut running = self.spawn(StartMode::Normal)?;
        self.await_answer(&mut running).await?;
        Ok(running)
    }
}

impl Running {
    fn send(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// Stops the engine as its specification says.
    ///
    /// # Errors
    /// It did not end in time, or not with status 0.
    pub async fn stop(mut self, bench: &Bench<'_>) -> Result<()> {
        self.end(bench).await
    }

    async fn end(&mut self, bench: &Bench<'_>) -> Result<()> {
        let spec = bench.datastore.engine().start_spec(&bench.site, StartMode::Normal);
        self.send(match spec.stop {
            StopSignal::Interrupt => Signal::SIGINT,
            StopSignal::Terminate => Signal::SIGTERM,
        })?;
        let end = Instant::now() + spec.stop_deadline;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the engine ended with {status}\n{}", bench.log()),
                None if Instant::now() > end => bail!("the engine did not stop in time\n{}", bench.log()),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Kills the engine's server process with SIGKILL and collects it.
    ///
    /// # Errors
    /// It had ended already.
    pub fn kill(mut self) -> Result<()> {
        self.send(Signal::SIGKILL)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a failure; one that has ended and was collected is not signalled.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.send(Signal::SIGINT);
            let _ = self.child.wait();
        }
    }
}
