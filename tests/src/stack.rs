//! A controller for a test, with its own directory and loopback address.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::Api;
use crate::database::Database;
use crate::engine::Engine;
use crate::leftovers;
use crate::poll::poll;

/// The environment variable of the controller's setting `datastores.only`.
const ONLY: &str = "TROVE_DATASTORES__ONLY";

/// Failpoints, at which a process dies or fails.
#[derive(Clone, Debug, Default)]
pub struct Failpoints {
    /// Failpoints of the controller, such as `operation.create_instance.boot_host.before=kill`.
    pub controller: Option<String>,
    /// Failpoints of every agent that this controller starts. Each fires once.
    pub agent: Option<String>,
}

/// Options of a stack.
#[derive(Clone, Debug, Default)]
pub struct StackOptions {
    /// Additional lines of the configuration file.
    pub config: String,
    /// Account that runs the controller instead of the test's own.
    pub account: Option<String>,
    /// Parent of the state directory; by default a temporary directory.
    pub parent: Option<PathBuf>,
    /// Set if it shares a store with other controllers.
    pub shared: Option<Shared>,
    /// Whether the store is a file in the state directory, whatever `TROVE_TEST_STORE` says.
    pub sqlite: bool,
    /// Additional environment variables of the controller.
    pub environment: Vec<(String, String)>,
    /// The controller's limit of open files; by default that of the test.
    pub descriptors: Option<u64>,
}

impl StackOptions {
    /// A service that offers only these engines.
    pub fn offering(engines: &[Engine]) -> Self {
        let names: Vec<&str> = engines.iter().map(|engine| engine.datastore()).collect();
        Self { environment: vec![(ONLY.to_owned(), json!(names).to_string())], ..Self::default() }
    }

    /// Names of the datastores that are offered. To ask an engine for its manifest takes seconds, so a story that needs
    /// another than these names it.
    fn offered(&self) -> Result<Vec<String>> {
        let told = self.environment.iter().rev().find(|(name, _)| name == ONLY);
        Ok(serde_json::from_str(told.map_or(r#"["postgresql", "redis"]"#, |(_, names)| names))?)
    }
}

/// What controllers of the same service share: the database, the key of its secrets, and the directories of hosts and of backups.
#[derive(Clone, Debug)]
pub struct Shared {
    /// `postgres://user@host:port/database`.
    pub url: String,
    /// A file with the user's password.
    pub password_file: PathBuf,
    /// A file with a key of 32 bytes.
    pub key_file: PathBuf,
    /// Directory of hosts.
    pub hosts: PathBuf,
    /// Directory of backups.
    pub backups: PathBuf,
}

impl Shared {
    fn environment(&self) -> [(&'static str, OsString); 5] {
        [
            ("TROVE_STORE__URL", self.url.clone().into()),
            ("TROVE_STORE__PASSWORD_FILE", self.password_file.clone().into()),
            ("TROVE_PROCESS__HOSTS_DIR", self.hosts.clone().into()),
            ("TROVE_BACKUPS__DIRECTORY", self.backups.clone().into()),
            ("TROVE_SECRET_KEY_FILE", self.key_file.clone().into()),
        ]
    }
}

/// A controller and its state directory. Dropping it ends everything that it started.
pub struct Stack {
    directory: TempDir,
    address: Ipv4Addr,
    options: StackOptions,
    child: Option<Child>,
    /// The server of the store, with `TROVE_TEST_STORE=postgres`.
    _database: Option<Database>,
}

/// Path of a program that was built together with this test. If it is absent, the error says how to build it.
pub fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("find the test's own program")?;
    let directory = test.parent().and_then(Path::parent).context("find the directory of built programs")?;
    let path = directory.join(name);
    ensure!(path.exists(), "{} is not built; run the tests through `make test`", path.display());
    Ok(path)
}

impl Stack {
    /// Starts a stack. An error contains the end of its log.
    pub async fn start() -> Result<Self> {
        Self::start_with(StackOptions::default()).await
    }

    /// Starts a stack that offers one engine.
    pub async fn of(engine: Engine) -> Result<Self> {
        Self::start_with(StackOptions::offering(&[engine])).await
    }

    /// Starts a stack with options.
    pub async fn start_with(options: StackOptions) -> Result<Self> {
        let mut stack = Self::prepare(options)?;
        stack.run(&Failpoints::default())?;
        if stack.await_datastore().await.is_err() {
            // An engine that is asked for its manifest has so much time; the controller asks again at its next start.
            let before = stack.failed_registrations();
            stack.kill_and_run()?;
            stack.await_registered(before).await?;
        }
        Ok(stack)
    }

    /// Makes the directory and the configuration, without starting anything.
    pub fn prepare(mut options: StackOptions) -> Result<Self> {
        let asked = std::env::var_os("TROVE_TEST_STORE").is_some_and(|kind| kind == "postgres");
        let database = if asked && !options.sqlite && options.shared.is_none() && options.account.is_none() {
            let database = Database::start()?;
            options.shared = Some(database.shared());
            Some(database)
        } else {
            None
        };
        // Fails if it was installed before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            let mut builder = tempfile::Builder::new();
            builder.prefix("trove-test-");
            builder
        };
        let directory = match &options.parent {
            Some(parent) => builder().tempdir_in(parent),
            None => builder().tempdir(),
        }?;
        // The engine's account must be able to traverse it.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
        // Outside of the range of instances, and random, so that two tests do not use the same.
        let address = Ipv4Addr::new(127, rand::random_range(128..=254), rand::random(), rand::random_range(1..=254));
        let own = &options.config;
        let mut config = format!("[api]\nlisten = \"{address}:8779\"\n[agents]\nlisten = \"{address}:8778\"\n{own}\n");
        if !config.contains("[rate_limits]") {
            // Tests exceed the default rate limits.
            let rates = ["get", "post", "put", "delete", "mgmt_post"].map(|kind| format!("{kind} = 1000000\n"));
            config.push_str(&format!("[rate_limits]\n{}", rates.concat()));
        }
        std::fs::write(directory.path().join("trove.toml"), config)?;
        if let Some(account) = &options.account {
            // The account may have no access to the build directory.
            for name in ["trove-controller", "trove-agent"] {
                std::fs::copy(program(name)?, directory.path().join(name))?;
            }
            let status = Command::new("chown").arg("-R").arg(account).arg(directory.path()).status()?;
            ensure!(status.success(), "give {} to {account}", directory.path().display());
        }
        Ok(Self { directory, address, options, child: None, _database: database })
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Parent of the state directory. It is removed with the stack.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn url(&self) -> String {
        format!("http://{}:8779", self.address)
    }

    /// Loopback address of the controller.
    pub fn address(&self) -> IpAddr {
        self.address.into()
    }

    pub fn config(&self) -> PathBuf {
        self.directory.path().join("trove.toml")
    }

    /// The clouds file written by the controller.
    pub fn clouds_yaml(&self) -> PathBuf {
        self.state().join("clouds.yaml")
    }

    pub fn host(&self, instance: &str) -> PathBuf {
        self.hosts().join(instance)
    }

    pub fn hosts(&self) -> PathBuf {
        let told = self.options.environment.iter().find(|(name, _)| name == "TROVE_PROCESS__HOSTS_DIR");
        match (&self.options.shared, told) {
            (Some(shared), _) => shared.hosts.clone(),
            (None, Some((_, directory))) => directory.into(),
            (None, None) => self.state().join("hosts"),
        }
    }

    /// The directory of the objects of all backups.
    pub fn storage(&self) -> PathBuf {
        let shared = self.options.shared.as_ref().map(|shared| shared.backups.clone());
        shared.unwrap_or_else(|| self.state().join("objects"))
    }

    /// The objects of a backup, with their paths.
    pub fn objects(&self, backup: &str) -> Result<Vec<PathBuf>> {
        let directory = self.storage().join(backup);
        let mut objects = Vec::new();
        if directory.exists() {
            for run in std::fs::read_dir(directory)? {
                let run = run?.path();
                if run.is_dir() {
                    objects.extend(std::fs::read_dir(run)?.flatten().map(|object| object.path()));
                }
            }
        }
        objects.sort();
        Ok(objects)
    }

    /// trovectl as the user `trove`.
    pub fn trovectl_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(program("trovectl")?);
        command.args(args).env("OS_CLIENT_CONFIG_FILE", self.clouds_yaml()).env("OS_CLOUD", "trove");
        command.env("XDG_CACHE_HOME", self.directory().join("cache")).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs trovectl as the user `trove`. Returns whether it succeeded, and its output (both streams if it failed).
    pub fn trovectl(&self, args: &[&str]) -> Result<(bool, String)> {
        let output = self.trovectl_command(args)?.output()?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            text.push_str(&String::from_utf8_lossy(&output.stderr));
        }
        Ok((output.status.success(), text))
    }

    /// Starts the controller and waits until it serves. If it ends before, the error contains the end of its log.
    pub fn run(&mut self, failpoints: &Failpoints) -> Result<()> {
        ensure!(self.child.is_none(), "the controller runs already");
        let mut child = self.command(failpoints)?.spawn().context("start trove-controller")?;
        let stdout = child.stdout.take().context("read the controller's output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        self.child = Some(child);
        if line.contains("serves") {
            return Ok(());
        }
        let status = self.wait()?;
        bail!("the controller ended with {status} before it served: {line}\n{}", self.log_end())
    }

    /// Starts the controller, waits until it ends by itself, and returns its exit status and log.
    pub fn run_to_end(&mut self) -> Result<(ExitStatus, String)> {
        let output = self.command(&Failpoints::default())?.stderr(Stdio::piped()).output()?;
        Ok((output.status, String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    fn command(&self, failpoints: &Failpoints) -> Result<Command> {
        let mut command = match &self.options.account {
            Some(account) => {
                let user = nix::unistd::User::from_name(account)?.with_context(|| format!("the account {account}"))?;
                let mut command = Command::new("setpriv");
                command.args([
                    &format!("--reuid={}", user.uid),
                    &format!("--regid={}", user.gid),
                    "--clear-groups",
                    "--",
                ]);
                command.arg(self.directory.path().join("trove-controller"));
                command
            }
            None => match self.options.descriptors {
                Some(most) => {
                    let mut command = Command::new("prlimit");
                    command.arg(format!("--nofile={most}:{most}")).arg(program("trove-controller")?);
                    command
                }
                None => Command::new(program("trove-controller")?),
            },
        };
        let log = std::fs::File::options().create(true).append(true).open(self.log())?;
        command.arg("serve").arg("--state").arg(self.state()).arg("--config").arg(self.config());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        for name in ["TROVE_FAILPOINTS", "TROVE_AGENT_FAILPOINTS", "TROVE_AGENT_FAILPOINTS_ONCE", "XDG_RUNTIME_DIR"] {
            command.env_remove(name);
        }
        // The default datastore of create requests, whatever else is installed.
        command.env("TROVE_DEFAULT_DATASTORE", "postgresql");
        command.env(ONLY, json!(self.options.offered()?).to_string());
        command.envs(self.environment());
        if let Some(entries) = &failpoints.controller {
            command.env("TROVE_FAILPOINTS", entries);
        }
        if let Some(entries) = &failpoints.agent {
            let once = self.fired()?;
            std::fs::create_dir_all(&once)?;
            std::fs::set_permissions(&once, std::fs::Permissions::from_mode(0o777))?;
            command.env("TROVE_AGENT_FAILPOINTS", entries).env("TROVE_AGENT_FAILPOINTS_ONCE", once);
        }
        Ok(command)
    }

    /// Configuration by the environment, which commands of an administrator need as well.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        let own = self.options.environment.iter().map(|(name, value)| (name.into(), value.into()));
        let shared = self.options.shared.iter().flat_map(Shared::environment);
        own.chain(shared.map(|(name, value)| (name.into(), value))).collect()
    }

    /// The directory in which agents record which failpoints have fired. It is not in /tmp, since hosts of root have
    /// their own /tmp.
    pub fn fired(&self) -> Result<PathBuf> {
        if self.options.account.is_some() || !nix::unistd::geteuid().is_root() {
            return Ok(self.directory.path().join("fired"));
        }
        let name = self.directory.path().file_name().context("the stack's directory")?;
        Ok(program("trove-agent")?.with_file_name("fired").join(name))
    }

    pub fn log(&self) -> PathBuf {
        self.directory.path().join("controller.log")
    }

    pub fn log_end(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    pub fn pid(&self) -> Result<Pid> {
        let child = self.child.as_ref().context("the controller does not run")?;
        Ok(Pid::from_raw(i32::try_from(child.id())?))
    }

    /// Waits for the end of the controller.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().context("the controller does not run")?;
        Ok(child.wait()?)
    }

    /// Waits until the controller ends by itself, for at most `deadline`.
    pub async fn await_death(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let mut child = self.child.take().context("the controller does not run")?;
        let ended = poll("the controller's end", deadline, async || Ok(child.try_wait()?), Option::is_some).await;
        match ended {
            Ok(Some(status)) => Ok(status),
            other => {
                self.child = Some(child);
                bail!("{other:?}")
            }
        }
    }

    /// Kills the controller with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        kill(self.pid()?, Signal::SIGKILL)?;
        self.wait()?;
        Ok(())
    }

    /// Kills the controller and starts it again.
    pub fn kill_and_run(&mut self) -> Result<()> {
        self.kill()?;
        self.run(&Failpoints::default())
    }

    /// Stops the controller gracefully. Agents and engines keep running.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        kill(self.pid()?, Signal::SIGTERM)?;
        self.wait()
    }

    /// Sends the controller a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid()?, signal)?)
    }

    /// Logs in at this controller with the clouds file of another one that shares its store.
    pub async fn login_as_known_to(&self, other: &Self, cloud: &str) -> Result<Api> {
        let text = std::fs::read_to_string(other.clouds_yaml())?.replace(&other.url(), &self.url());
        let path = self.directory.path().join("clouds-of-the-other.yaml");
        std::fs::write(&path, text)?;
        Api::login(&path, cloud).await
    }

    /// Logs in with an entry of the clouds file: `trove` or `trove-admin`.
    pub async fn login(&self, cloud: &str) -> Result<Api> {
        Api::login(&self.clouds_yaml(), cloud).await
    }

    /// Waits until the installed datastores are registered, for at most 180 s.
    pub async fn await_datastore(&self) -> Result<()> {
        self.await_registered(0).await
    }

    /// The same, where so many registrations have failed before.
    async fn await_registered(&self, failed: usize) -> Result<()> {
        let api = self.login("trove").await?;
        let offered = self.options.offered()?;
        let has = |body: &Value, name: &String| {
            let all = body["datastores"].as_array().into_iter().flatten();
            all.clone().any(|one| one["name"] == *name && one["versions"][0]["id"].is_string())
        };
        let seen = poll(
            "a version of each datastore",
            Duration::from_secs(180),
            async || Ok(api.get("/datastores").await?.body),
            |body| offered.iter().all(|name| has(body, name)) || self.failed_registrations() > failed,
        )
        .await;
        let seen = seen.with_context(|| self.log_end())?;
        ensure!(offered.iter().all(|name| has(&seen, name)), "{}", self.log_end());
        Ok(())
    }

    fn failed_registrations(&self) -> usize {
        std::fs::read_to_string(self.log()).unwrap_or_default().matches("could not be registered").count()
    }

    /// The authority of an instance's engine, in a file.
    pub async fn authority(&self, api: &Api, id: &str) -> Result<PathBuf> {
        let connection = api.get(&format!("/instances/{id}/connection")).await?.body;
        let pem = connection["connection"]["ca_pem"].as_str().with_context(|| format!("ca_pem in {connection}"))?;
        let path = self.directory().join(format!("{id}.pem"));
        std::fs::write(&path, pem)?;
        Ok(path)
    }

    /// Ids of all hosts.
    pub fn instances(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.hosts()) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !name.starts_with('.')).collect()
    }

    fn end_everything(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for instance in self.instances() {
            leftovers::end_host(&self.host(&instance), &instance);
        }
        leftovers::forget_service(&self.state());
        if let Ok(fired) = self.fired() {
            let _ = std::fs::remove_dir_all(fired);
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        let ended =
            ended.map_or_else(String::new, |status| format!("--- the controller had ended by itself: {status}\n"));
        let text = format!("{ended}--- the end of the controller's log\n{}\n", self.log_end());
        // The test runner shows standard error of failed tests only.
        let _ = std::io::stderr().write_all(text.as_bytes());
        self.end_everything();
    }
}
