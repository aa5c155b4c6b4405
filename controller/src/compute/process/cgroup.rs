//! The cgroups of hosts: version 2, version 1, or both side by side (memory, pids and cpu in version 1, `cgroup.kill`
//! in version 2).
//!
//! A host has two cgroups in each hierarchy: `trove-rs/<key>/<id>` for all processes of the engine's account, and
//! `trove-rs/<key>/<id>.agent` for the agent, which so keeps working when the tenant has used up his share. They are
//! siblings, because in version 2 a cgroup that delegates controllers may have no processes itself. The key differs for
//! each state directory.

#![allow(clippy::disallowed_methods, reason = "control groups")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use trove_strategy::process::{self, if_there};

use super::system::ProcessId;

/// Memory limit of the agent, MiB, in addition to the flavor's.
const AGENT_MIB: u64 = 256;
/// Limit of processes and threads of the agent; it needs far fewer.
const AGENT_PROCESSES: u64 = 512;
/// Limit of processes and threads of the smallest host. PostgreSQL has 50 connections and about 20 processes of its own
/// there.
const LEAST_PROCESSES: u64 = 128;
/// Greatest limit of processes and threads: enough for PostgreSQL with 500 connections, too few to harm the machine.
const MOST_PROCESSES: u64 = 1024;
/// Period of CPU quotas, microseconds; the kernel's default.
const PERIOD: u64 = 100_000;
const TOP: &str = "trove-rs";

/// The cgroup hierarchies of the machine that hosts use.
#[derive(Debug)]
pub(crate) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    key: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unified,
    Memory,
    Pids,
    Cpu,
}

/// The two parts of a host that have separate cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All processes of the engine's account, hence those of the tenant.
    Engine,
    /// The agent.
    Agent,
}

impl Part {
    const ALL: [Self; 2] = [Self::Engine, Self::Agent];

    fn name(self, host: &str) -> String {
        match self {
            // In older versions the agent was in this one, too.
            Self::Engine => host.to_owned(),
            Self::Agent => format!("{host}.agent"),
        }
    }

    /// Name of the host, given the name of one of its cgroups.
    fn host(name: &str) -> String {
        name.strip_suffix(".agent").unwrap_or(name).to_owned()
    }
}

/// Pairs of a cgroup file and its value, for both versions; the names of the files differ.
type Settings = Vec<(&'static str, String)>;

/// Writes the settings whose files exist in this cgroup.
fn set(group: &Path, settings: &Settings) -> io::Result<()> {
    for (file, value) in settings {
        let file = group.join(file);
        if file.exists() {
            fs::write(&file, value)
                .map_err(|error| io::Error::new(error.kind(), format!("set {}: {error}", file.display())))?;
        }
    }
    Ok(())
}

fn sizes(memory_mib: u64, processes: u64) -> Settings {
    let memory = memory_mib.saturating_mul(1024 * 1024).to_string();
    vec![("memory.max", memory.clone()), ("memory.limit_in_bytes", memory), ("pids.max", processes.to_string())]
}

fn agents() -> Settings {
    sizes(AGENT_MIB, AGENT_PROCESSES)
}

/// Limits of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Memory of the flavor, MiB.
    pub(crate) memory_mib: u64,
    /// Cores of the flavor.
    pub(crate) vcpus: u32,
}

impl Limits {
    /// Greatest number of processes and threads.
    fn processes(self) -> u64 {
        (LEAST_PROCESSES + self.memory_mib / 2).min(MOST_PROCESSES)
    }

    fn set(self, group: &Path) -> io::Result<()> {
        let vcpus = u64::from(self.vcpus.max(1));
        let quota = vcpus * PERIOD;
        let mut all = sizes(self.memory_mib, self.processes());
        all.extend([
            // If the kernel kills a process for lack of memory, it kills the whole cgroup, so that the engine restarts
            // instead of losing one process after the other.
            ("memory.oom.group", "1".to_owned()),
            ("cpu.weight", (100 * vcpus).min(10_000).to_string()),
            ("cpu.max", format!("{quota} {PERIOD}")),
            ("cpu.shares", (1024 * vcpus).min(262_144).to_string()),
            ("cpu.cfs_period_us", PERIOD.to_string()),
            ("cpu.cfs_quota_us", quota.to_string()),
        ]);
        set(group, &all)
    }
}

impl Cgroups {
    /// Finds the usable hierarchies. The error says why memory cannot be limited.
    pub(crate) fn find(key: &str) -> Result<Self, String> {
        let mounts =
            fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("mounts are not known: {error}"))?;
        let mut found = Self { hierarchies: hierarchies(&mounts), key: key.to_owned() };
        if !found.hierarchies.iter().any(Hierarchy::limits_memory) {
            return Err("no control group of this machine limits memory".to_owned());
        }
        for hierarchy in std::mem::take(&mut found.hierarchies) {
            let top = found.parent(&hierarchy);
            match hierarchy.prepare(&top) {
                Err(error) if hierarchy.kind == Kind::Cpu => {
                    tracing::warn!("hosts have no limits of processors: {}: {error}", top.display());
                    continue;
                }
                made => made.map_err(|error| format!("control groups cannot be made in {}: {error}", top.display()))?,
            }
            // This was only a test: without hosts there are no directories. Those in use are not empty, so they stay.
            hierarchy.tidy(&top);
            found.hierarchies.push(hierarchy);
        }
        Ok(found)
    }

    /// Whether they limit the number of processes, besides memory.
    pub(crate) fn limit_processes(&self) -> bool {
        self.hierarchies.iter().any(Hierarchy::limits_processes)
    }

    /// Cgroup directories of one part of a host, whether they exist or not.
    pub(crate) fn of(&self, host: &str, part: Part) -> Vec<PathBuf> {
        self.hierarchies.iter().map(|hierarchy| self.parent(hierarchy).join(part.name(host))).collect()
    }

    /// Cgroup directories of both parts of a host.
    pub(crate) fn all(&self, host: &str) -> Vec<PathBuf> {
        Part::ALL.into_iter().flat_map(|part| self.of(host, part)).collect()
    }

    /// Path of a host's cgroup relative to the mount point, the same in each hierarchy.
    pub(crate) fn path(&self, host: &str, part: Part) -> PathBuf {
        Path::new(TOP).join(&self.key).join(part.name(host))
    }

    /// Moves an agent into its cgroups.
    pub(crate) fn join(&self, host: &str, agent: ProcessId) -> io::Result<()> {
        let groups = self.of(host, Part::Agent);
        groups.iter().try_for_each(|group| fs::write(group.join("cgroup.procs"), agent.pid.to_string()))
    }

    /// Makes the cgroups of a host if needed, and sets their limits.
    pub(crate) fn ensure(&self, host: &str, limits: Limits) -> io::Result<()> {
        for hierarchy in &self.hierarchies {
            let parent = self.parent(hierarchy);
            for part in Part::ALL {
                let group = parent.join(part.name(host));
                // Another controller's `tidy` may remove the empty parent in between; so try twice.
                let made = || hierarchy.prepare(&parent).and_then(|()| make(&group));
                made().or_else(|error| if error.kind() == ErrorKind::NotFound { made() } else { Err(error) })?;
                match part {
                    Part::Engine => limits.set(&group)?,
                    Part::Agent => set(&group, &agents())?,
                }
            }
        }
        Ok(())
    }

    /// All hosts that have a cgroup.
    pub(crate) fn hosts(&self) -> io::Result<BTreeSet<String>> {
        let mut hosts = BTreeSet::new();
        for hierarchy in &self.hierarchies {
            hosts.extend(
                children(&self.parent(hierarchy))?
                    .into_iter()
                    .filter_map(|path| path.file_name().and_then(|name| name.to_str()).map(Part::host)),
            );
        }
        Ok(hosts)
    }

    /// Removes the cgroups of a host, in which no process may be left, and the parent directories if they are empty.
    pub(crate) fn remove(&self, host: &str) -> io::Result<()> {
        for hierarchy in &self.hierarchies {
            let parent = self.parent(hierarchy);
            Part::ALL.iter().try_for_each(|part| remove(&parent.join(part.name(host))))?;
            hierarchy.tidy(&parent);
        }
        Ok(())
    }

    fn parent(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.mount.join(TOP).join(&self.key)
    }
}

/// Processes in a cgroup and its descendants.
pub(crate) fn members(group: &Path) -> io::Result<Vec<ProcessId>> {
    let mut members = Vec::new();
    for pid in process::members(group)? {
        members.extend(ProcessId::of(pid)?);
    }
    for child in children(group)? {
        members.extend(self::members(&child)?);
    }
    Ok(members)
}

/// While this lives, no process can be created in the cgroups. If the kernel supports `cgroup.kill` (version 2, Linux
/// 5.14), all processes in them are killed at once.
#[derive(Debug)]
pub(crate) struct Held(Vec<(PathBuf, String)>);

impl Held {
    pub(crate) fn new(groups: &[PathBuf]) -> Self {
        // If the cgroup has no pids.max, the caller's signals must do.
        let hold = |group: &PathBuf| {
            let file = group.join("pids.max");
            let limit = fs::read_to_string(&file).ok()?;
            fs::write(&file, "0").ok().map(|()| (file, limit))
        };
        let held = Self(groups.iter().filter_map(hold).collect());
        groups.iter().for_each(|group| process::kill_members(group));
        held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for (file, limit) in &self.0 {
            // Fails if the cgroup was removed meanwhile.
            let _ = fs::write(file, limit.trim());
        }
    }
}

impl Hierarchy {
    fn limits_memory(&self) -> bool {
        match self.kind {
            Kind::Memory => true,
            Kind::Pids | Kind::Cpu => false,
            Kind::Unified => offered(&self.mount).contains("memory"),
        }
    }

    fn limits_processes(&self) -> bool {
        match self.kind {
            Kind::Pids => true,
            Kind::Memory | Kind::Cpu => false,
            Kind::Unified => offered(&self.mount).contains("pids"),
        }
    }

    /// Makes the parent directories of hosts. In version 2 it also enables the controllers for their children.
    fn prepare(&self, parent: &Path) -> io::Result<()> {
        let top = self.mount.join(TOP);
        for directory in [top.as_path(), parent] {
            make(directory)?;
        }
        if self.kind == Kind::Unified {
            for directory in [self.mount.as_path(), top.as_path(), parent] {
                let offered = offered(directory);
                let wanted: Vec<String> = ["memory", "pids"]
                    .into_iter()
                    .filter(|name| offered.contains(*name))
                    .map(|name| format!("+{name}"))
                    .collect();
                let control = directory.join("cgroup.subtree_control");
                if !wanted.is_empty() {
                    fs::write(&control, wanted.join(" "))?;
                }
                // The kernel may refuse to enable cpu while there are real-time processes.
                if offered.contains("cpu") {
                    let _ = fs::write(&control, "+cpu");
                }
            }
        }
        Ok(())
    }

    /// Removes the parent directories if they are empty. If a host is being made this moment, `ensure` makes them
    /// again.
    fn tidy(&self, parent: &Path) {
        let _ = fs::remove_dir(parent).and_then(|()| fs::remove_dir(self.mount.join(TOP)));
    }
}

fn offered(directory: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// Parses /proc/self/mountinfo, proc(5): `id parent major:minor root mount options ... - type source super-options`.
fn hierarchies(mounts: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(mount) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
        let has = |controller: &str| options.split(',').any(|option| option == controller);
        let kind = match kind {
            "cgroup2" => Kind::Unified,
            "cgroup" if has("memory") => Kind::Memory,
            "cgroup" if has("pids") => Kind::Pids,
            "cgroup" if has("cpu") => Kind::Cpu,
            _ => continue,
        };
        // A hierarchy may be mounted several times; one mount is enough.
        if !found.iter().any(|hierarchy| hierarchy.kind == kind) {
            found.push(Hierarchy { mount: mount.into(), kind });
        }
    }
    found
}

fn make(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Removes a cgroup and its descendants. Only directories are removed; the kernel removes their files.
fn remove(group: &Path) -> io::Result<()> {
    for child in children(group)? {
        remove(&child)?;
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn children(group: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(entries) = if_there(fs::read_dir(group))? else { return Ok(Vec::new()) };
    let mut directories = Vec::new();
    for entry in entries {
        let entry = entry?;
        if if_there(entry.file_type())?.is_some_and(|kind| kind.is_dir()) {
            directories.push(entry.path());
        }
    }
    Ok(directories)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_from_the_mounts() {
        let hybrid = "30 25 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
                      31 25 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      32 25 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      34 25 0:30 / /proc rw - proc proc rw";
        let found: Vec<_> = hierarchies(hybrid).into_iter().map(|found| (found.kind, found.mount)).collect();
        let at = |name: &str| PathBuf::from("/sys/fs/cgroup").join(name);
        let all = [
            (Kind::Memory, at("memory")),
            (Kind::Pids, at("pids")),
            (Kind::Cpu, at("cpu")),
            (Kind::Unified, at("unified")),
        ];
        assert_eq!(found, all);
        assert_eq!(hierarchies("34 25 0:30 / /proc rw - proc proc rw"), []);
    }

    #[test]
    fn limits_go_by_the_flavor() {
        let directory = tempfile::tempdir().unwrap();
        let read = |file: &str| fs::read_to_string(directory.path().join(file)).unwrap();
        let files = ["memory.max", "pids.max", "cpu.weight", "cpu.max", "cpu.shares", "cpu.cfs_quota_us"];
        files.iter().for_each(|file| fs::write(directory.path().join(file), "").unwrap());
        Limits { memory_mib: 512, vcpus: 2 }.set(directory.path()).unwrap();
        let set = files.map(read);
        let memory = (512_u64 << 20).to_string();
        assert_eq!(set, [memory.as_str(), "384", "200", "200000 100000", "2048", "200000"]);
        assert!(!directory.path().join("memory.oom.group").exists(), "a controller that is not there is not asked");
        // PostgreSQL has one connection per 10 MiB, at least 50 and at most 500, and some processes of its own.
        for memory_mib in [64, 512, 1024, 5120, 65536] {
            let limits = Limits { memory_mib, vcpus: 32 };
            assert!(limits.processes() >= (memory_mib / 10).clamp(50, 500) + 32 + 20, "{memory_mib}");
            assert!(limits.processes() <= 1024, "{memory_mib}");
        }
    }
}
