//! One host on the disk: its directories, the agent's configuration, and the agent's process.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cgroup::Cgroups;
use super::system::{self, ProcessId};
use crate::compute::{ComputeError, HostSpec};
use crate::ids::InstanceId;

/// Where hosts live. Cheap to clone.
#[derive(Clone)]
pub(super) struct Place {
    /// `<state>/hosts`.
    pub(super) hosts: PathBuf,
    /// Short paths for sockets.
    pub(super) runtime: PathBuf,
    /// Where hosts are limited; `None` where they cannot be.
    pub(super) cgroups: Option<Arc<Cgroups>>,
    /// The account of engines; `None`: this process's own.
    pub(super) engine_account: Option<String>,
    /// The agent program where a version names no other.
    pub(super) program: PathBuf,
}

/// The agent's configuration, as the agent reads it.
#[derive(Serialize)]
struct AgentConfig<'a> {
    instance_id: InstanceId,
    generation: u64,
    datastore: &'a str,
    controllers: &'a [String],
    authority_file: &'a str,
    token_file: &'a str,
    state_dir: &'a str,
    volume_dir: &'a str,
    config_dir: &'a str,
    run_dir: PathBuf,
    log_dir: &'a str,
    bindir: &'a Path,
    major: &'a str,
    address: std::net::IpAddr,
    port: u16,
    memory_mib: u64,
    vcpus: u32,
    volume_gib: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine_account: Option<&'a str>,
    cgroups: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_mount: Option<PathBuf>,
}

/// Tells state directories apart where names of theirs would meet.
pub(super) fn key(state: &Path) -> String {
    let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// `trove-agent` beside this program.
pub(super) fn program_beside() -> PathBuf {
    // A program that was replaced while it ran is still named by its directory.
    std::env::current_exe().map(|own| own.with_file_name("trove-agent")).unwrap_or_else(|_| "trove-agent".into())
}

fn failed(attempt: &str, path: &Path) -> impl FnOnce(std::io::Error) -> ComputeError {
    let text = format!("{attempt} {}", path.display());
    move |error| match error.kind() {
        // A person has to make room; meanwhile nothing is lost by trying again.
        ErrorKind::StorageFull => ComputeError::Transient(format!("{text}: No space left on device")),
        _ => ComputeError::Fatal(format!("{text}: {error}")),
    }
}

/// What the driver itself reads of that.
/// How long another controller may be about to start or remove an agent.
const LOCK_WAIT: std::time::Duration = std::time::Duration::from_secs(10);

/// What became of a start.
#[derive(Debug)]
pub(super) enum Started {
    /// It was started.
    Now(Child),
    /// It runs already, perhaps started by another controller.
    Before,
    /// There is no such host, or it was withdrawn.
    Gone,
}

#[derive(Deserialize)]
struct Limits {
    memory_mib: u64,
}

fn make(path: &Path, mode: u32) -> Result<(), ComputeError> {
    fs::create_dir_all(path).map_err(failed("make", path))?;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed("open", path))
}

fn remove(path: &Path) -> Result<(), ComputeError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(ComputeError::Transient(format!("remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Replaces a file as one step, 0600.
fn write(path: &Path, contents: &[u8]) -> Result<(), ComputeError> {
    let beside = path.with_extension("new");
    let all = || -> std::io::Result<()> {
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    all().map_err(failed("write", path))
}

impl Place {
    /// The directory of a host.
    pub(super) fn directory(&self, instance: InstanceId) -> PathBuf {
        self.hosts.join(instance.to_string())
    }

    /// The directory of its sockets.
    pub(super) fn run_directory(&self, instance: InstanceId) -> PathBuf {
        self.runtime.join(instance.to_string())
    }

    fn config_file(&self, instance: InstanceId) -> PathBuf {
        self.directory(instance).join("agent.toml")
    }

    /// Whether the host has been made, and was not withdrawn since.
    pub(super) fn is_whole(&self, instance: InstanceId) -> bool {
        self.config_file(instance).exists()
    }

    /// From now on no agent is started for the host until it is written anew, whenever this process is killed.
    pub(super) async fn withdraw(&self, instance: InstanceId) -> Result<(), ComputeError> {
        let _alone = self.alone().await?;
        let file = self.config_file(instance);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", &file)(error)),
            _ => Ok(()),
        }
    }

    /// Every host that has a directory.
    pub(super) fn hosts(&self) -> Vec<InstanceId> {
        let Ok(entries) = fs::read_dir(&self.hosts) else { return Vec::new() };
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// Refuses what cannot be started, before anything is made.
    pub(super) fn check(&self, spec: &HostSpec) -> Result<(), ComputeError> {
        let program = spec.agent_program.as_ref().unwrap_or(&self.program);
        let executable =
            fs::metadata(program).is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0);
        if !executable {
            return Err(ComputeError::Fatal(format!(
                "the agent program {} is not there or cannot be executed",
                program.display()
            )));
        }
        match &self.engine_account {
            Some(name) if !matches!(nix::unistd::User::from_name(name), Ok(Some(_))) => {
                Err(ComputeError::Fatal(format!(
                    "the account {name}, which runs engines, is not there: make it with useradd --system --user-group \
                 --no-create-home --shell /usr/sbin/nologin {name}"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Makes the host's directories, its control group, and its agent's configuration.
    pub(super) fn write(&self, spec: &HostSpec) -> Result<(), ComputeError> {
        let directory = self.directory(spec.instance);
        let run = self.run_directory(spec.instance);
        make(&directory, 0o711)?;
        make(&directory.join("log"), 0o700)?;
        let id = spec.instance.to_string();
        write(&directory.join("authority.pem"), spec.authority_pem.as_bytes())?;
        // An agent that has its certificate needs no token, and would leave it lying there.
        let enrolled = directory.join("agent/identity.pem").exists();
        if let Some(token) = spec.token.as_ref().filter(|_| !enrolled) {
            write(&directory.join("token"), token.expose_secret().as_bytes())?;
        }
        let config = AgentConfig {
            instance_id: spec.instance,
            generation: spec.generation,
            datastore: &spec.datastore,
            controllers: &spec.controllers,
            authority_file: "authority.pem",
            token_file: "token",
            state_dir: "agent",
            volume_dir: "volume",
            config_dir: "etc",
            run_dir: run.join("s"),
            log_dir: "log",
            bindir: &spec.installation.bindir,
            major: &spec.installation.major,
            address: spec.address,
            port: spec.port,
            memory_mib: spec.size.memory_mib,
            vcpus: spec.size.vcpus,
            volume_gib: spec.size.volume_gib,
            engine_account: self.engine_account.as_deref(),
            cgroups: self.cgroups.as_ref().map(|cgroups| cgroups.of(&id)).unwrap_or_default(),
            private_mount: self.closed_to_engines(&directory).then(|| run.join("m")),
        };
        let text = toml::to_string(&config)
            .map_err(|error| ComputeError::Fatal(format!("write the agent's configuration: {error}")))?;
        write(&self.config_file(spec.instance), text.as_bytes())?;
        if let Some(program) = &spec.agent_program {
            write(&directory.join("agent-program"), program.as_os_str().as_encoded_bytes())?;
        }
        Ok(())
    }

    /// Whether the engines' account cannot reach the directory because one above it is closed to others.
    fn closed_to_engines(&self, directory: &Path) -> bool {
        let closed = |path: &Path| fs::metadata(path).is_ok_and(|facts| facts.permissions().mode() & 0o001 == 0);
        self.engine_account.is_some() && directory.ancestors().any(closed)
    }

    /// The agent of a host, by its command line: nothing that was written down can be wrong about it.
    pub(super) fn find_agent(&self, instance: InstanceId) -> Option<ProcessId> {
        let file = self.config_file(instance);
        let all = system::processes().ok()?;
        let is_agent = |process: &&system::Process| {
            let mut words = process.arguments.iter().rev();
            words.next().is_some_and(|word| *word == *file.as_os_str())
                && words.next().is_some_and(|word| word == "--config")
        };
        all.iter().find(is_agent).map(|process| process.id)
    }

    /// Waits until the host has no agent: `child` where this process started it.
    pub(super) async fn await_agents_end(&self, instance: InstanceId, child: Option<&Child>) {
        // A child that has ended cannot be taken for another until it is collected.
        let agent = match child {
            Some(child) => i32::try_from(child.id()).ok().and_then(ProcessId::of),
            None => self.find_agent(instance),
        };
        if let Some(agent) = agent
            && let Ok(Some(handle)) = agent.open()
        {
            handle.ended().await;
        }
    }

    /// Keeps the controllers that share these hosts from starting or removing agents at the same time.
    async fn alone(&self) -> Result<Flock<File>, ComputeError> {
        let path = self.hosts.join(".lock");
        let shown = path.display().to_string();
        let locked = tokio::task::spawn_blocking(move || {
            let file = File::options().create(true).append(true).mode(0o600).open(&path)?;
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| std::io::Error::from(error))
        });
        match tokio::time::timeout(LOCK_WAIT, locked).await {
            Ok(Ok(Ok(lock))) => Ok(lock),
            Ok(Ok(Err(error))) => Err(ComputeError::Transient(format!("lock {shown}: {error}"))),
            Ok(Err(error)) => Err(ComputeError::Transient(format!("lock {shown}: {error}"))),
            Err(_) => Err(ComputeError::Transient(format!("lock {shown}: another controller has it for long"))),
        }
    }

    /// Starts the host's agent unless it runs.
    pub(super) async fn ensure_agent(&self, instance: InstanceId) -> Result<Started, ComputeError> {
        let _alone = self.alone().await?;
        if !self.is_whole(instance) {
            return Ok(Started::Gone);
        }
        if self.find_agent(instance).is_some() {
            return Ok(Started::Before);
        }
        self.start_agent(instance).map(Started::Now)
    }

    /// Starts the agent in a session of its own, so that it outlives this process.
    fn start_agent(&self, instance: InstanceId) -> Result<Child, ComputeError> {
        let directory = self.directory(instance);
        self.make_volatile(instance)?;
        let log = directory.join("log/agent.log");
        let output = File::options().create(true).append(true).mode(0o600).open(&log).map_err(failed("open", &log))?;
        let again = output.try_clone().map_err(failed("open", &log))?;
        let program = match fs::read(directory.join("agent-program")) {
            Ok(bytes) => PathBuf::from(String::from_utf8_lossy(&bytes).into_owned()),
            Err(_) => self.program.clone(),
        };
        // util-linux: as a child that leads no group, setsid replaces itself by the program.
        let mut command = Command::new("setsid");
        command.arg(&program).args(["run", "--config"]).arg(self.config_file(instance));
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8");
        #[cfg(feature = "failpoints")]
        for name in ["TROVE_FAILPOINTS", "TROVE_FAILPOINTS_ONCE"] {
            if let Some(value) = std::env::var_os(name.replace("TROVE_", "TROVE_AGENT_")) {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::null()).stdout(output).stderr(again).current_dir(&directory);
        command.spawn().map_err(failed("start", &program))
    }

    /// Makes what a restart of the machine takes away: the directory of sockets and the control group.
    fn make_volatile(&self, instance: InstanceId) -> Result<(), ComputeError> {
        make(&self.run_directory(instance), 0o711)?;
        let Some(cgroups) = &self.cgroups else { return Ok(()) };
        let limits = |text: String| toml::from_str::<Limits>(&text).map_err(std::io::Error::other);
        let file = self.config_file(instance);
        let limits = fs::read_to_string(&file).and_then(limits).map_err(failed("read", &file))?;
        let made = cgroups.ensure(&instance.to_string(), limits.memory_mib);
        made.map_err(|error| ComputeError::Transient(format!("limit the memory of the host {instance}: {error}")))
    }

    /// Takes the directory of sockets and the control group away; no process of the host may be left.
    pub(super) fn remove_volatile(&self, instance: InstanceId) -> Result<(), ComputeError> {
        remove(&self.run_directory(instance))?;
        let Some(cgroups) = &self.cgroups else { return Ok(()) };
        let removed = cgroups.remove(&instance.to_string());
        removed.map_err(|error| ComputeError::Transient(format!("remove the control group of {instance}: {error}")))
    }

    /// Removes what the host has on the disk, the directory that it is known by last.
    pub(super) async fn remove(&self, instance: InstanceId) -> Result<(), ComputeError> {
        let place = self.clone();
        let all = move || {
            place.remove_volatile(instance)?;
            remove(&place.directory(instance))
        };
        let done = tokio::task::spawn_blocking(all).await;
        done.map_err(|error| ComputeError::Transient(format!("remove the host: {error}")))?
    }
}
