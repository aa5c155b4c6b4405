//! Hosts on disk: one directory each. The engine's part of a host can be made again from it at any time.
//!
//! | in the directory | what it is |
//! |---|---|
//! | `place` | project and address, see `addresses.rs`; written first |
//! | `fence` | the greatest fence under which the host was changed |
//! | `guest` | what its container is made from; `guest.withdrawn` while the host is stopped |
//! | `enrolment/` | agent.toml, authority.pem and the token, for the agent alone |
//! | `state/`, `config/` | what the agent writes |
//! | `volume.img`, `volume/` | the engine's data and its log, see `volume.rs` |

#![allow(
    clippy::disallowed_methods,
    reason = "the directories of hosts and what lies right in them are this account's; what guests put below is removed by a handle"
)]

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};
use trove_strategy::process::if_there;

use super::addresses::Place;
use super::firewall::Door;
use super::volume::Volume;
use crate::compute::agent_config::AgentConfig;
use crate::compute::disk::{check_fence, failed, raise_fence, remove, write};
use crate::compute::enrolment::Enrolment;
use crate::compute::{ComputeError, HostSpec, lock};
use crate::ids::InstanceId;
use crate::model::{Access, Artifact, Image};

/// Labels of containers and networks.
pub(super) const INSTANCE: &str = "trove-rs.instance";
pub(super) const FENCE: &str = "trove-rs.fence";
pub(super) const GENERATION: &str = "trove-rs.generation";
/// With the key of the directory of hosts.
pub(super) const STATE: &str = "trove-rs.state";

const PLACE: &str = "place";
const WHOLE: &str = "guest";
const WITHDRAWN: &str = "guest.withdrawn";
pub(super) const ENROLMENT: Enrolment = Enrolment { identity: "state/identity.pem", token: "enrolment/token" };
/// How long to wait for a lock while another controller works on the same host.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
/// The account of the engine in every image.
const ENGINE_UID: u32 = 2000;
/// Mount point of the volume in the guest.
const GUEST_VOLUME: &str = "/var/lib/trove-data";

/// What a container is made from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Guest {
    pub(super) instance: InstanceId,
    pub(super) generation: u64,
    pub(super) place: Place,
    pub(super) image: Image,
    pub(super) memory_mib: u64,
    pub(super) vcpus: u32,
    pub(super) volume_gib: u64,
    ports: Vec<u16>,
    access: Option<Access>,
    /// The host's directory.
    directory: PathBuf,
}

impl Guest {
    pub(super) fn volume(&self) -> Volume {
        Volume::of(&self.directory)
    }

    /// Directories of the host, and where the guest sees them.
    pub(super) fn binds(&self) -> Vec<(PathBuf, &'static str)> {
        vec![
            (self.directory.join("enrolment"), "/etc/trove-agent"),
            (self.directory.join("config"), "/etc/trove-engine"),
            (self.directory.join("state"), "/var/lib/trove-agent"),
            (self.volume().log(), "/var/log/trove-engine"),
            (self.volume().data(), GUEST_VOLUME),
        ]
    }

    pub(super) fn door(&self) -> Door {
        Door { address: self.place.address, ports: self.ports.clone(), access: self.access.clone() }
    }
}

/// All hosts of this machine. Cheap to clone.
#[derive(Clone)]
pub(super) struct Hosts {
    pub(super) root: PathBuf,
}

fn make(path: &Path) -> Result<(), ComputeError> {
    fs::create_dir_all(path).map_err(failed("make", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed("close", path))
}

fn transient(attempt: &str, path: &Path) -> impl FnOnce(std::io::Error) -> ComputeError {
    let text = format!("{attempt} {}", path.display());
    move |error| ComputeError::Transient(format!("{text}: {error}"))
}

impl Hosts {
    pub(super) fn directory(&self, instance: InstanceId) -> PathBuf {
        self.root.join(instance.to_string())
    }

    pub(super) fn is_there(&self, instance: InstanceId) -> Result<bool, ComputeError> {
        let directory = self.directory(instance);
        directory.try_exists().map_err(failed("look for", &directory))
    }

    /// All hosts that have a directory.
    pub(super) fn list(&self) -> Result<Vec<InstanceId>, ComputeError> {
        let names = fs::read_dir(&self.root)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>());
        let names = names.map_err(transient("read", &self.root))?;
        Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }

    fn read<T: for<'a> Deserialize<'a>>(&self, instance: InstanceId, name: &str) -> Result<Option<T>, ComputeError> {
        let file = self.directory(instance).join(name);
        let Some(bytes) = if_there(fs::read(&file)).map_err(failed("read", &file))? else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|error| ComputeError::Fatal(format!("read {}: {error}", file.display())))
    }

    fn put(&self, instance: InstanceId, name: &str, value: &impl Serialize) -> Result<(), ComputeError> {
        let text = serde_json::to_vec(value);
        let text = text.map_err(|error| ComputeError::Fatal(format!("write {name} of {instance}: {error}")))?;
        write(&self.directory(instance).join(name), &text)
    }

    /// What the host's container is made from; `None` if the host is not there, half made or stopped.
    pub(super) fn guest(&self, instance: InstanceId) -> Result<Option<Guest>, ComputeError> {
        self.read(instance, WHOLE)
    }

    /// Whether the host was made to its end once, with its volume.
    pub(super) fn was_whole(&self, instance: InstanceId) -> Result<bool, ComputeError> {
        for name in [WHOLE, WITHDRAWN] {
            let file = self.directory(instance).join(name);
            if file.try_exists().map_err(failed("look for", &file))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The images of all hosts.
    pub(super) fn images(&self) -> Result<Vec<Image>, ComputeError> {
        let of = |instance| [WHOLE, WITHDRAWN].map(|name| self.read::<Guest>(instance, name).transpose());
        let guests = self.list()?.into_iter().flat_map(of).flatten();
        guests.map(|guest| guest.map(|guest| guest.image)).collect()
    }

    /// The doors of all hosts. One whose file cannot be read is left out, which closes its door.
    pub(super) fn doors(&self) -> Result<Vec<Door>, ComputeError> {
        let guests = self.list()?.into_iter().filter_map(|instance| {
            self.guest(instance)
                .inspect_err(|error| tracing::error!(%instance, "nobody is let in by its access rules: {error}"))
                .ok()
                .flatten()
        });
        Ok(guests.map(|guest| guest.door()).collect())
    }

    pub(super) fn place(&self, instance: InstanceId) -> Result<Option<Place>, ComputeError> {
        self.read(instance, PLACE)
    }

    /// The places of all hosts, but of this one.
    pub(super) fn places(&self, but: Option<InstanceId>) -> Result<Vec<Place>, ComputeError> {
        let others = self.list()?.into_iter().filter(|other| Some(*other) != but);
        others.filter_map(|other| self.place(other).transpose()).collect()
    }

    /// Writes the place of a host, and makes its directory. The caller has the lock of all places.
    pub(super) fn put_place(&self, instance: InstanceId, place: &Place) -> Result<(), ComputeError> {
        make(&self.directory(instance))?;
        self.put(instance, PLACE, place)
    }

    /// Locks the places of all hosts.
    pub(super) fn lock_places(&self) -> Result<Flock<File>, ComputeError> {
        let locked = File::open(&self.root).and_then(|file| lock::take(file, LOCK_LIMIT));
        locked.map_err(transient("lock", &self.root))
    }

    /// Locks the host, so that two controllers do not make and remove it at the same time. `None` if there is no host.
    pub(super) fn lock(&self, instance: InstanceId) -> Result<Option<Flock<File>>, ComputeError> {
        let directory = self.directory(instance);
        let locked = || -> std::io::Result<Option<Flock<File>>> {
            let Some(file) = if_there(File::open(&directory))? else { return Ok(None) };
            let alone = lock::take(file, LOCK_LIMIT)?;
            // Who had the lock may have removed the host.
            let there = if_there(fs::metadata(&directory))?.map(|there| there.ino());
            Ok((there == Some(alone.metadata()?.ino())).then_some(alone))
        };
        locked().map_err(transient("lock", &directory))
    }

    pub(super) fn check_fence(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        check_fence(&self.directory(instance), fence)
    }

    /// Renames what the container is made from, so that no controller starts it until [`Hosts::write`] is called. This
    /// holds also if this process is killed right after.
    pub(super) fn withdraw(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        let Some(_alone) = self.lock(instance)? else { return Ok(()) };
        let directory = self.directory(instance);
        raise_fence(&directory, fence)?;
        let file = directory.join(WHOLE);
        match fs::rename(&file, directory.join(WITHDRAWN)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("set aside", &file)(error)),
            _ => Ok(()),
        }
    }

    /// Writes what the host is made from. `place` was checked or written by the caller.
    pub(super) fn write(&self, spec: &HostSpec, place: Place, is_filesystem: bool) -> Result<(), ComputeError> {
        let Artifact::Image { installation, image } = &spec.artifact else {
            return Err(ComputeError::Fatal("the engine is in no image, and this driver runs images only".to_owned()));
        };
        let directory = self.directory(spec.instance);
        for part in ["enrolment", "state", "config"] {
            let path = directory.join(part);
            if !path.try_exists().map_err(failed("look for", &path))? {
                make(&path)?;
            }
        }
        let bootstrap = &spec.bootstrap;
        write(&directory.join("enrolment/authority.pem"), bootstrap.authority_pem.as_bytes())?;
        ENROLMENT.write_token(&directory, bootstrap.token.as_ref())?;
        // An agent takes a directory that is a mount for a file system of its own, of which it asks the use. If the volume is
        // a directory of the machine's file system, it gets one below the mount.
        let volume_dir = Path::new(GUEST_VOLUME).join(if is_filesystem { "" } else { "all" });
        let config = AgentConfig {
            authority_file: "authority.pem".into(),
            token_file: "token".into(),
            state_dir: "/var/lib/trove-agent".into(),
            volume_dir,
            config_dir: "/etc/trove-engine".into(),
            run_dir: "/run/trove-engine".into(),
            log_dir: "/var/log/trove-engine".into(),
            engine_uid: Some(ENGINE_UID),
            ..AgentConfig::of(spec, installation)
        };
        write(&directory.join("enrolment/agent.toml"), config.text()?.as_bytes())?;
        let guest = Guest {
            instance: spec.instance,
            generation: bootstrap.generation,
            place,
            image: image.clone(),
            memory_mib: spec.size.memory_mib,
            vcpus: spec.size.vcpus,
            volume_gib: spec.size.volume_gib,
            ports: std::iter::once(spec.network.port).chain(spec.network.tls_port).collect(),
            access: spec.requirements.access.clone(),
            directory,
        };
        self.put(spec.instance, WHOLE, &guest)?;
        // Only now, since one of both says that the host was whole. Its image is not this host's any more.
        let withdrawn = guest.directory.join(WITHDRAWN);
        if_there(fs::remove_file(&withdrawn)).map(drop).map_err(failed("remove", &withdrawn))
    }

    /// Raises the fence of a host whose lock the caller has.
    pub(super) fn raise_fence(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        raise_fence(&self.directory(instance), fence)
    }

    /// Removes the host from disk.
    pub(super) fn remove(&self, instance: InstanceId) -> Result<(), ComputeError> {
        let directory = self.directory(instance);
        Volume::of(&directory).unmount()?;
        remove(&directory)
    }
}

/// The address in a specification.
pub(super) fn address(spec: &HostSpec) -> Result<std::net::Ipv4Addr, ComputeError> {
    match spec.network.address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => Err(ComputeError::Fatal(format!("{address} is no address of this driver's networks"))),
    }
}
