//! A host on disk: its directories and its agent's configuration. The agent's process is in `agent.rs`.

#![allow(
    clippy::disallowed_methods,
    reason = "the directories of hosts and what lies right in them are this account's; what engines put below is removed by a handle"
)]

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::Flock;
use serde::Deserialize;
use trove_strategy::process::if_there;

use super::accounts::Accounts;
use super::cgroup::{Cgroups, Limits, Part};
use super::filter::Filter;
use super::keys;
use super::migrate;
use super::namespace::{self, View};
use super::tenant::{PORTS, Tenant, WHOLE, WITHDRAWN};
use crate::compute::agent_config::AgentConfig;
use crate::compute::disk::{failed, remove, write};
use crate::compute::enrolment::Enrolment;
use crate::compute::{ComputeError, HostSpec, lock};
use crate::ids::InstanceId;
use crate::model::Artifact;

/// All hosts of this machine, and how they are made. Cheap to clone.
#[derive(Clone)]
pub(super) struct Hosts {
    /// `<state>/hosts`.
    pub(super) root: PathBuf,
    /// Runtime directory. Its path is short, since sockets are below it.
    pub(super) runtime: PathBuf,
    /// `None` if memory cannot be limited.
    pub(super) cgroups: Option<Arc<Cgroups>>,
    /// `None` if the controller is not root.
    pub(super) apart: Option<Arc<Apart>>,
    /// Agent program, unless the datastore version names another.
    pub(super) program: PathBuf,
}

/// What separates hosts from each other, if the controller is root.
#[derive(Debug)]
pub(super) struct Apart {
    /// User ids of the engines.
    pub(super) accounts: Accounts,
    /// Packet filter, so that a host cannot serve another's address.
    pub(super) filter: Filter,
    /// Directories of which a host sees only its own part.
    pub(super) hidden: Vec<PathBuf>,
    /// Why mount namespaces cannot be made on this machine, if so.
    pub(super) obstacle: Option<String>,
    /// Whether /proc can be mounted so that processes of other accounts are hidden.
    pub(super) hides_processes: bool,
    /// What this machine cannot prevent a tenant from doing to other instances, if so; see [`Hosts::gap`].
    pub(super) gap: Option<&'static str>,
}

/// Path of `trove-agent` in the directory of this program.
pub(super) fn program_beside() -> PathBuf {
    // After this program's file was replaced, the path ends with " (deleted)"; its directory is still right.
    std::env::current_exe().map(|own| own.with_file_name("trove-agent")).unwrap_or_else(|_| "trove-agent".into())
}

/// How long to wait for the lock of a host, while another controller starts or removes its agent.
const LOCK_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);
/// See [`Hosts::gap`].
pub(super) const UNLIMITED: &str = "an instance could take all memory or processes of the machine";
pub(super) const ENROLMENT: Enrolment = Enrolment { identity: "agent/identity.pem", token: "token" };

/// Those fields of the agent's configuration that the driver reads back.
#[derive(Deserialize)]
pub(super) struct Written {
    pub(super) memory_mib: u64,
    vcpus: Option<u32>,
    pub(super) engine_uid: Option<u32>,
    pub(super) bindir: PathBuf,
}

impl Written {
    pub(super) fn limits(&self) -> Limits {
        // A file that was written by hand may lack vcpus.
        Limits { memory_mib: self.memory_mib, vcpus: self.vcpus.unwrap_or(1) }
    }
}

fn make(path: &Path, mode: u32) -> Result<(), ComputeError> {
    fs::create_dir_all(path).map_err(failed("make", path))?;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed("open", path))
}

impl Hosts {
    /// What a tenant with a shell as his engine's account could do to other instances, in words for tenants. `None` if
    /// he is kept from them.
    pub(super) fn gap(&self) -> Option<&'static str> {
        let Some(apart) = &self.apart else { return Some("all engines run as one account") };
        // Without these limits one tenant takes all memory or processes of the machine, and others' engines end.
        let is_limited = self.cgroups.as_ref().is_some_and(|cgroups| cgroups.limit_processes());
        let unlimited = (!is_limited).then_some(UNLIMITED);
        let no_namespaces = apart.obstacle.as_ref().map(|_| "an instance would have no file systems of its own");
        let filter = apart.filter.obstacle().map(|_| "an instance could answer in the place of another");
        no_namespaces.or(apart.gap).or(unlimited).or(filter)
    }

    pub(super) fn directory(&self, instance: InstanceId) -> PathBuf {
        self.root.join(instance.to_string())
    }

    /// Runtime directory of a host.
    pub(super) fn run_directory(&self, instance: InstanceId) -> PathBuf {
        self.runtime.join(instance.to_string())
    }

    pub(super) fn config_file(&self, instance: InstanceId) -> PathBuf {
        self.directory(instance).join(WHOLE)
    }

    pub(super) fn is_there(&self, instance: InstanceId) -> Result<bool, ComputeError> {
        let directory = self.directory(instance);
        directory.try_exists().map_err(failed("look for", &directory))
    }

    /// Whether the host was completely made, and not stopped since ([`Hosts::withdraw`]).
    pub(super) fn is_whole(&self, instance: InstanceId) -> Result<bool, ComputeError> {
        let file = self.config_file(instance);
        file.try_exists().map_err(failed("look for", &file))
    }

    /// Renames the agent's configuration, so that no controller starts an agent for the host until [`Hosts::write`] is
    /// called. This holds also if this process is killed right after.
    pub(super) async fn withdraw(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        self.off_the_runtime(move |hosts| hosts.withdraw_now(instance, fence)).await
    }

    fn withdraw_now(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        let Some(_alone) = self.alone(instance)? else { return Ok(()) };
        self.raise_fence(instance, fence)?;
        let file = self.config_file(instance);
        match fs::rename(&file, self.directory(instance).join(WITHDRAWN)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("set aside", &file)(error)),
            _ => Ok(()),
        }
    }

    /// All hosts that have a directory.
    pub(super) fn list(&self) -> std::io::Result<Vec<InstanceId>> {
        let names =
            fs::read_dir(&self.root)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
        Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }

    /// Checks whether the host could be started, before anything is made.
    pub(super) fn check(&self, spec: &HostSpec) -> Result<(), ComputeError> {
        let Artifact::Local { installation, agent_program } = &spec.artifact else {
            return Err(ComputeError::Fatal("the engine is in an image, which this driver does not run".to_owned()));
        };
        let program = agent_program.as_ref().unwrap_or(&self.program);
        let executable =
            fs::metadata(program).is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0);
        if !executable {
            return Err(ComputeError::Fatal(format!(
                "the agent program {} is not there or cannot be executed",
                program.display()
            )));
        }
        let Some(apart) = &self.apart else { return Ok(()) };
        if let Some(obstacle) = &apart.obstacle {
            return Err(ComputeError::Fatal(format!("hosts cannot be kept apart on this machine: {obstacle}")));
        }
        if spec.engine_uid.is_none() {
            return Err(ComputeError::Fatal("the engine has no account of its own".to_owned()));
        }
        let hides = |path: &Path| apart.hidden.iter().any(|hidden| path.starts_with(hidden));
        match [program, &installation.bindir].into_iter().find(|path| hides(path)) {
            Some(path) => Err(ComputeError::Fatal(format!(
                "{} is in a directory of the controller's, which hosts do not see: put it elsewhere",
                path.display()
            ))),
            None => Ok(()),
        }
    }

    /// Reserves an account for the engine. The host's directory is made first, since a reservation without it is void.
    pub(super) fn reserve(&self, instance: InstanceId, taken: &BTreeSet<u32>) -> Result<Option<u32>, ComputeError> {
        let Some(apart) = &self.apart else { return Ok(None) };
        let directory = self.directory(instance);
        make(&directory, 0o711)?;
        apart.accounts.reserve(&directory, taken).map(Some)
    }

    /// Reserved account of the host's engine.
    pub(super) fn account(&self, instance: InstanceId) -> std::io::Result<Option<u32>> {
        let Some(apart) = &self.apart else { return Ok(None) };
        Ok(apart.accounts.of(&self.directory(instance))?.first().copied())
    }

    /// All hosts that have an account, read from their configuration files.
    pub(super) fn tenants(&self) -> std::io::Result<Vec<Tenant>> {
        let all = self.list()?.into_iter().map(|instance| Tenant::in_directory(&self.directory(instance)));
        all.filter_map(Result::transpose).collect()
    }

    /// Whether the host's engine had another account than the one in `spec`.
    ///
    /// # Errors
    /// The host's files could not be read. The account may be another or not.
    pub(super) fn had_another_account(&self, spec: &HostSpec) -> Result<bool, ComputeError> {
        let Some(uid) = spec.engine_uid else { return Ok(false) };
        let directory = self.directory(spec.instance);
        let look = || {
            // The file may be incomplete; it is then written again.
            let text = if_there(fs::read_to_string(self.config_file(spec.instance)))?.unwrap_or_default();
            let written = toml::from_str::<Written>(&text).ok();
            Ok(written.is_some_and(|written| written.engine_uid != Some(uid))
                || migrate::is_of_another(&directory, uid)?)
        };
        look().map_err(|error: std::io::Error| {
            ComputeError::Transient(format!("look whose the files in {} are: {error}", directory.display()))
        })
    }

    /// Changes the owner of the engine's files to the account in `spec`. No process of the host may be left.
    pub(super) async fn give(&self, spec: &HostSpec) -> Result<(), ComputeError> {
        let Some(uid) = spec.engine_uid else { return Ok(()) };
        let directory = self.directory(spec.instance);
        let given = tokio::task::spawn_blocking(move || migrate::give(&directory, uid)).await;
        given
            .map_err(std::io::Error::other)
            .and_then(|given| given)
            .map_err(|error| ComputeError::Fatal(error.to_string()))
    }

    /// Writes the host's directories and its agent's configuration.
    pub(super) async fn write(&self, spec: &HostSpec) -> Result<(), ComputeError> {
        let spec = spec.clone();
        self.off_the_runtime(move |hosts| hosts.write_now(&spec)).await
    }

    fn write_now(&self, spec: &HostSpec) -> Result<(), ComputeError> {
        let directory = self.directory(spec.instance);
        let run = self.run_directory(spec.instance);
        make(&directory, 0o711)?;
        let _alone = self.alone(spec.instance)?;
        self.raise_fence(spec.instance, spec.fence)?;
        make(&directory.join("log"), 0o700)?;
        if let (Some(apart), Some(uid)) = (&self.apart, spec.engine_uid) {
            apart.accounts.keep(uid, &directory)?;
        }
        let bootstrap = &spec.bootstrap;
        let Artifact::Local { installation, agent_program } = &spec.artifact else {
            return Err(ComputeError::Fatal("the engine is in an image, which this driver does not run".to_owned()));
        };
        write(&directory.join("authority.pem"), bootstrap.authority_pem.as_bytes())?;
        ENROLMENT.write_token(&directory, bootstrap.token.as_ref())?;
        let config = AgentConfig {
            authority_file: "authority.pem".into(),
            token_file: ENROLMENT.token.into(),
            state_dir: "agent".into(),
            volume_dir: "volume".into(),
            config_dir: "etc".into(),
            run_dir: View::sockets(&run),
            log_dir: "log".into(),
            engine_uid: spec.engine_uid,
            cgroups: self.groups_of(spec.instance, Part::Agent),
            engine_cgroups: self.groups_of(spec.instance, Part::Engine),
            ..AgentConfig::of(spec, installation)
        };
        let ports: Vec<u16> = std::iter::once(spec.network.port).chain(spec.network.tls_port).collect();
        let lines: String = ports.iter().map(|port| format!("{port}\n")).collect();
        write(&directory.join(PORTS), lines.as_bytes())?;
        write(&self.config_file(spec.instance), config.text()?.as_bytes())?;
        // It may have had another version, with an agent program of its own.
        let named = directory.join("agent-program");
        match agent_program {
            Some(program) => write(&named, program.as_os_str().as_encoded_bytes()),
            None => if_there(fs::remove_file(&named)).map(drop).map_err(failed("remove", &named)),
        }
    }

    pub(super) fn written(&self, instance: InstanceId) -> Result<Written, ComputeError> {
        let file = self.config_file(instance);
        let parse = |text: String| toml::from_str(&text).map_err(std::io::Error::other);
        fs::read_to_string(&file).and_then(parse).map_err(failed("read", &file))
    }

    /// Locks the host, so that two controllers do not start or remove its agent at the same time. `None` if there is no
    /// host. Each host has its own lock, so that a controller that is stopped while it holds one delays no other host.
    pub(super) fn alone(&self, instance: InstanceId) -> Result<Option<Flock<File>>, ComputeError> {
        let directory = self.directory(instance);
        let locked =
            if_there(File::open(&directory)).and_then(|file| file.map(|file| lock::take(file, LOCK_LIMIT)).transpose());
        locked.map_err(|error| ComputeError::Transient(format!("lock {}: {error}", directory.display())))
    }

    /// Runs work that may block, on a lock or the disk, on a thread for blocking work.
    pub(super) async fn off_the_runtime<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, ComputeError> + Send + 'static,
    ) -> Result<T, ComputeError> {
        let hosts = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&hosts)).await;
        done.map_err(|error| ComputeError::Transient(format!("work on a host: {error}")))?
    }

    /// Makes what a restart of the machine removes: the runtime directory, the cgroups, and the reservation of the
    /// account.
    pub(super) fn make_volatile(&self, instance: InstanceId, written: &Written) -> Result<(), ComputeError> {
        let run = self.run_directory(instance);
        make(&run, 0o711)?;
        if let (Some(apart), Some(uid)) = (&self.apart, written.engine_uid) {
            let directory = self.directory(instance);
            apart.accounts.keep(uid, &directory)?;
            if let Some(tenant) =
                Tenant::in_directory(&directory).map_err(failed("read what was written in", &directory))?
            {
                apart.filter.add(&apart.accounts, &tenant);
            }
            namespace::prepare(&run).map_err(failed("prepare", &run))?;
        }
        let Some(cgroups) = &self.cgroups else { return Ok(()) };
        let limited = cgroups.ensure(&instance.to_string(), written.limits());
        limited.map_err(|error| ComputeError::Transient(format!("limit the host {instance}: {error}")))
    }

    /// Removes the runtime directory and the cgroups. No process of the host may be left.
    pub(super) fn remove_volatile(&self, instance: InstanceId) -> Result<(), ComputeError> {
        let run = self.run_directory(instance);
        if self.apart.is_some() {
            namespace::release(&run).map_err(|error| ComputeError::Transient(error.to_string()))?;
        }
        remove(&run)?;
        let Some(cgroups) = &self.cgroups else { return Ok(()) };
        let removed = cgroups.remove(&instance.to_string());
        removed.map_err(|error| ComputeError::Transient(format!("remove the control group of {instance}: {error}")))
    }

    /// Takes the host out of the packet filter. No process of the host may be left. Its files go first, so that no
    /// renewal of the filter, by whichever controller, adds it again.
    pub(super) fn leave_filter(&self, instance: InstanceId) -> Result<(), ComputeError> {
        let Some(apart) = &self.apart else { return Ok(()) };
        let directory = self.directory(instance);
        // If a file is unreadable, the periodic renewal of the filter removes the host.
        let tenant = Tenant::in_directory(&directory).ok().flatten();
        for name in [WHOLE, WITHDRAWN] {
            let file = directory.join(name);
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("remove", &file)(error)),
                _ => {}
            }
        }
        if let Some(tenant) = tenant {
            apart.filter.remove(&apart.accounts, &tenant);
        }
        Ok(())
    }

    /// Removes the host from disk. Its directory goes last, so that an interrupted removal can be repeated.
    pub(super) async fn remove(&self, instance: InstanceId) -> Result<(), ComputeError> {
        let hosts = self.clone();
        let all = move || {
            let directory = hosts.directory(instance);
            hosts.remove_volatile(instance)?;
            let Some(apart) = &hosts.apart else { return remove(&directory) };
            hosts.leave_filter(instance)?;
            // Before the directory is removed, so that it is repeated if this process is killed here.
            for uid in apart.accounts.of(&directory).map_err(failed("look whose is", &directory))? {
                match keys::clear(uid) {
                    Ok(true) => {}
                    Ok(false) => tracing::warn!(uid, "keys of the account are left, so nobody else is given it"),
                    Err(error) => tracing::warn!("{error}"),
                }
            }
            remove(&directory)?;
            // Last, since from now on another host may get the account.
            apart.accounts.release(&directory)
        };
        let done = tokio::task::spawn_blocking(all).await;
        done.map_err(|error| ComputeError::Transient(format!("remove the host: {error}")))?
    }
}
