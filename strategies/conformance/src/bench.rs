//! A site in a scratch directory, and an engine on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use trove_strategy::{
    Account, Applied, Datastore, EngineError, File, FirstStart, Host, Kind, Owner, Places, RealHost, Settings, Site,
    Size, StartMode, Trusted,
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
        let size = Size { memory_mib: 512, vcpus: 1, volume_gib: 1 };
        let site = Site::new(installation, places, IpAddr::V4(address), datastore.identity().port, size, &host);
        let bench = Self { datastore, site, host, scratch };
        bench.renew_certificate().await?;
        Ok(bench)
    }

    /// Puts another certificate in the place of the engine's, of another authority. The engine is told by a reload.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn renew_certificate(&self) -> Result<()> {
        let made = rcgen::generate_simple_self_signed(vec![self.site.address.to_string()])?;
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

    /// Copies the authority that tenants trust now to a file of this name in the scratch directory.
    pub(crate) fn keep_authority(&self, name: &str) -> Result<()> {
        std::fs::copy(self.site.path(&self.site.tls.authority), self.scratch.path().join(name))?;
        Ok(())
    }

    /// Processes that work below the engine's volume.
    fn processes(&self) -> Result<Vec<i32>> {
        let volume = self.site.data.parent().unwrap_or(&self.site.data);
        let pid = |entry: std::fs::DirEntry| {
            let cwd = std::fs::read_link(entry.path().join("cwd")).ok()?;
            cwd.starts_with(volume).then(|| entry.file_name().to_string_lossy().parse().ok())?
        };
        Ok(std::fs::read_dir("/proc")?.flatten().filter_map(pid).collect())
    }

    /// Processes that were given a path of this bench's as an argument.
    pub(crate) fn commands(&self) -> Result<BTreeSet<i32>> {
        let scratch = self.scratch.path().to_string_lossy().into_owned();
        let pid = |entry: std::fs::DirEntry| {
            // A process may end at any moment.
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            String::from_utf8_lossy(&line)
                .contains(&scratch)
                .then(|| entry.file_name().to_string_lossy().parse().ok())?
        };
        Ok(std::fs::read_dir("/proc")?.flatten().filter_map(pid).collect())
    }

    /// Kills what works below the engine's volume, as a crash of the machine does.
    pub(crate) async fn kill_all(&self) -> Result<()> {
        for pid in self.processes()? {
            // It may have ended.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        self.await_none().await
    }

    /// Children of a killed server live on for a moment; a start before their end can fail.
    pub(crate) async fn await_none(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.processes()?.is_empty() {
            ensure!(Instant::now() < end, "processes of a killed engine do not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Makes the agent's account on the privately started engine.
    pub(crate) async fn secure(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        while let Err(error) = self.datastore.engine().secure(&self.site).await {
            if Instant::now() > end {
                bail!("cannot be secured: {}\n{}", error.chain(), self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
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
        self.spawn_with(mode, &Settings::default())
    }

    /// The same, with settings that were configured before.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn_with(&self, mode: StartMode, settings: &Settings) -> Result<Running> {
        let spec = self.datastore.engine().start_spec(&self.site, settings, mode);
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
    /// It ended, or did not answer within a minute: with its output.
    pub async fn await_answer(&self, running: &mut Running) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match self.datastore.engine().probe(&self.site).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == Kind::Fatal || Instant::now() > end => {
                    bail!("no answer: {}\n{}", error.chain(), self.log())
                }
                Err(_) => {}
            }
            if let Some(status) = running.child.try_wait()? {
                bail!("the engine ended: {status}\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Has the running engine take up settings as the agent does: checked, written, reloaded, applied. Answers what became
    /// of each parameter.
    ///
    /// # Errors
    /// The strategy's.
    pub async fn take_up(&self, settings: &Settings) -> Result<BTreeMap<String, Applied>, EngineError> {
        let (engine, parameters) = (self.datastore.engine(), self.datastore.parameters());
        if let Some(parameters) = parameters {
            parameters.check(&self.site, &settings.parameters).await?;
        }
        engine.configure(&self.site, settings).await?;
        engine.reload(&self.site, settings).await?;
        match parameters {
            Some(parameters) => parameters.apply(&self.site, settings).await,
            None => Ok(BTreeMap::new()),
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
            self.secure().await?;
            private.end(self).await?;
        }
        let mut running = self.spawn(StartMode::Normal)?;
        self.await_answer(&mut running).await?;
        Ok(running)
    }
}

impl Running {
    /// The id of the server's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops the server's process so that it answers nobody.
    pub(crate) fn pause(&self) -> Result<()> {
        self.send(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) -> Result<()> {
        self.send(Signal::SIGCONT)
    }

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
        let spec = bench.datastore.engine().start_spec(&bench.site, &Settings::default(), StartMode::Normal);
        self.send(match spec.stop {
            trove_strategy::Signal::Interrupt => Signal::SIGINT,
            trove_strategy::Signal::Quit => Signal::SIGQUIT,
            _ => Signal::SIGTERM,
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
            let _ = self.send(Signal::SIGCONT);
            let _ = self.send(Signal::SIGINT);
            // Not every server ends so.
            let end = Instant::now() + Duration::from_secs(3);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
