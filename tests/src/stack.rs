//! A controller of its own, in its own directory, on its own loopback address.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::api::Api;
use crate::database::Database;
use crate::leftovers;
use crate::poll::poll;

/// Where a process is to die or fail.
#[derive(Clone, Debug, Default)]
pub struct Failpoints {
    /// Entries for the controller, such as `operation.create_instance.boot_host.before=kill`.
    pub controller: Option<String>,
    /// Entries for every agent that this controller starts; each fires once.
    pub agent: Option<String>,
}

/// How a stack is made.
#[derive(Clone, Debug, Default)]
pub struct StackOptions {
    /// More lines for the configuration file.
    pub config: String,
    /// Runs the controller as this account instead of the test's own.
    pub account: Option<String>,
    /// Where the state directory is made; a temporary directory otherwise.
    pub parent: Option<PathBuf>,
    /// What it shares with other controllers; nothing otherwise.
    pub shared: Option<Shared>,
    /// More of the controller's environment.
    pub environment: Vec<(String, String)>,
    /// How many descriptors the controller may have; as many as the test otherwise.
    pub descriptors: Option<u64>,
}

/// What controllers of one service share: a database, the key of the secrets in it, and the directory of hosts.
#[derive(Clone, Debug)]
pub struct Shared {
    /// `postgres://user@host:port/database`.
    pub url: String,
    /// A file with the user's password.
    pub password_file: PathBuf,
    /// A file of 32 bytes.
    pub key_file: PathBuf,
    /// Where hosts are kept.
    pub hosts: PathBuf,
}

impl Shared {
    fn environment(&self) -> [(&'static str, std::ffi::OsString); 4] {
        [
            ("TROVE_STORE__URL", self.url.clone().into()),
            ("TROVE_STORE__PASSWORD_FILE", self.password_file.clone().into()),
            ("TROVE_PROCESS__HOSTS_DIR", self.hosts.clone().into()),
            ("TROVE_SECRET_KEY_FILE", self.key_file.clone().into()),
        ]
    }
}

/// A controller with its state directory. Dropping it ends everything that it started.
pub struct Stack {
    directory: TempDir,
    address: Ipv4Addr,
    options: StackOptions,
    child: Option<Child>,
    /// Where `TROVE_TEST_STORE=postgres` asks for it, the server of the store.
    _database: Option<Database>,
}

/// A program that was built beside this test.
///
/// # Errors
/// It is not there: the message says how to build it.
pub fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("find the test's own program")?;
    let directory = test.parent().and_then(Path::parent).context("find the directory of built programs")?;
    let path = directory.join(name);
    ensure!(path.exists(), "{} is not built; run the tests through `make test`", path.display());
    Ok(path)
}

impl Stack {
    /// A stack that serves.
    ///
    /// # Errors
    /// It did not come up; the message has the end of its log.
    pub async fn start() -> Result<Self> {
        Self::start_with(StackOptions::default()).await
    }

    /// A stack that serves, made otherwise than usual.
    pub async fn start_with(options: StackOptions) -> Result<Self> {
        let mut stack = Self::prepare(options)?;
        stack.run(&Failpoints::default())?;
        stack.await_datastore().await?;
        Ok(stack)
    }

    /// A directory and a configuration, nothing running yet.
    pub fn prepare(mut options: StackOptions) -> Result<Self> {
        let asked = std::env::var_os("TROVE_TEST_STORE").is_some_and(|kind| kind == "postgres");
        let database = if asked && options.shared.is_none() && options.account.is_none() {
            let database = Database::start()?;
            options.shared = Some(database.shared());
            Some(database)
        } else {
            None
        };
        // Best effort: a second call in one process finds it installed.
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
        // The engine's account has to be able to enter.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
        // Above the range of instances, and drawn from so many that two tests do not meet.
        let address = Ipv4Addr::new(127, rand::random_range(128..=254), rand::random(), rand::random_range(1..=254));
        let own = &options.config;
        let mut config = format!("[api]\nlisten = \"{address}:8779\"\n[agents]\nlisten = \"{address}:8778\"\n{own}\n");
        if !config.contains("[rate_limits]") {
            // Tests ask faster than people do.
            let rates = ["get", "post", "put", "delete", "mgmt_post"].map(|kind| format!("{kind} = 1000000\n"));
            config.push_str(&format!("[rate_limits]\n{}", rates.concat()));
        }
        std::fs::write(directory.path().join("trove.toml"), config)?;
        if let Some(account) = &options.account {
            // The account may not reach the directory that the programs were built in.
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

    /// The directory around it, which goes with the stack.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn url(&self) -> String {
        format!("http://{}:8779", self.address)
    }

    /// The loopback address that the controller listens on.
    pub fn address(&self) -> IpAddr {
        self.address.into()
    }

    pub fn config(&self) -> PathBuf {
        self.directory.path().join("trove.toml")
    }

    /// The clouds file that the controller made.
    pub fn clouds_yaml(&self) -> PathBuf {
        self.state().join("clouds.yaml")
    }

    /// The directory of an instance's host.
    pub fn host(&self, instance: &str) -> PathBuf {
        self.hosts().join(instance)
    }

    /// The directory of all hosts.
    pub fn hosts(&self) -> PathBuf {
        let told = self.options.environment.iter().find(|(name, _)| name == "TROVE_PROCESS__HOSTS_DIR");
        match (&self.options.shared, told) {
            (Some(shared), _) => shared.hosts.clone(),
            (None, Some((_, directory))) => directory.into(),
            (None, None) => self.state().join("hosts"),
        }
    }

    /// Starts the controller and returns when it says that it serves.
    ///
    /// # Errors
    /// It ended first; the message has the end of its log.
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

    /// Starts the controller where it is expected to end by itself, and returns its status and log.
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
        // Orders that name none mean this one, whatever else is installed.
        command.env("TROVE_DEFAULT_DATASTORE", "postgresql");
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        if let Some(shared) = &self.options.shared {
            command.envs(shared.environment());
        }
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

    /// Where agents write down which failpoints have fired: hosts of root see no temporary directory but their own.
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

    /// The last lines of the controller's log.
    pub fn log_end(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    pub fn pid(&self) -> Result<Pid> {
        let child = self.child.as_ref().context("the controller does not run")?;
        Ok(Pid::from_raw(i32::try_from(child.id())?))
    }

    /// Waits until the controller has ended.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().context("the controller does not run")?;
        Ok(child.wait()?)
    }

    /// Waits until the controller has ended by itself, for at most `deadline`.
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

    /// Ends the controller in an orderly way; agents and engines go on.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        kill(self.pid()?, Signal::SIGTERM)?;
        self.wait()
    }

    /// Sends the controller a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid()?, signal)?)
    }

    /// The API as a cloud of another controller's clouds file, when both share a store.
    pub async fn login_as_known_to(&self, other: &Self, cloud: &str) -> Result<Api> {
        let text = std::fs::read_to_string(other.clouds_yaml())?.replace(&other.url(), &self.url());
        let path = self.directory.path().join("clouds-of-the-other.yaml");
        std::fs::write(&path, text)?;
        Api::login(&path, cloud).await
    }

    /// The API as a cloud of the clouds file: `trove` or `trove-admin`.
    pub async fn login(&self, cloud: &str) -> Result<Api> {
        Api::login(&self.clouds_yaml(), cloud).await
    }

    /// Waits until the datastores that are installed are registered.
    ///
    /// # Errors
    /// It was not within 180 s.
    pub async fn await_datastore(&self) -> Result<()> {
        let api = self.login("trove").await?;
        let seen = poll(
            "a version of each datastore",
            Duration::from_secs(180),
            async || Ok(api.get("/datastores").await?.body),
            |body| (0..2).all(|n| body["datastores"][n]["versions"][0]["id"].is_string()),
        )
        .await;
        seen.with_context(|| self.log_end())?;
        Ok(())
    }

    /// Ids of the hosts that there are.
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
        // The runner shows standard error of failed tests only; nothing better can be done with a failure here.
        let _ = std::io::stderr().write_all(text.as_bytes());
        self.end_everything();
    }
}
