//! The namespaces of a host: a mount namespace in which other hosts are not visible, and an IPC namespace for its
//! System V objects and message queues.
//!
//! They are made at the host's first start and live until the host is stopped. A bind mount in the host's runtime
//! directory keeps the mount namespace alive, so that every agent of the host enters the same one, whichever controller
//! starts it. A mount inside of it keeps the IPC namespace, so that both have the same lifetime.
//!
//! Namespaces belong to a thread, and children of the thread inherit them. So all of this happens on separate threads:
//! it needs no unsafe code and does not affect the rest of the controller.
//!
//! Inside, the host's directory is mounted at [`View::home`], where the engine's account can reach it even if a parent
//! of the state directory is closed to it.

#![allow(clippy::disallowed_methods, reason = "the runtime directory is root's, and what is mounted is opened before")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, umask};
use nix::sys::statfs::{FsType, fstatfs};

use super::system;
use crate::ids::InstanceId;

/// NSFS_MAGIC: type of the file system that namespace files are on.
const NAMESPACES: FsType = FsType(0x6e73_6673);
/// World-writable directories; each host gets its own.
const SHARED_PLACES: [&str; 4] = ["/tmp", "/var/tmp", "/run/lock", "/dev/shm"];
/// Mount options of the tmpfs for sockets and lock files.
const FOR_SOCKETS: &str = "mode=0711,size=4m,nr_inodes=1024";
/// Source of mounts to which the engine may write. The agent recognises them by it and empties them before each start
/// of the engine.
const OF_HOST: &str = "trove-host";
const NONE: Option<&str> = None;

/// Specification of a host's namespaces.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Directory of the host.
    pub(super) host: PathBuf,
    /// Runtime directory of the host; has the same path inside.
    pub(super) run: PathBuf,
    /// User id of the engine. Inside it has the name `os_admin`.
    pub(super) uid: u32,
    /// cgroups of the host; have the same paths inside.
    pub(super) groups: Vec<PathBuf>,
    /// Directories of which only the host's own part is visible inside.
    pub(super) hidden: Vec<PathBuf>,
    /// Programs that must be visible inside.
    pub(super) programs: Vec<PathBuf>,
    /// Size limit of /dev/shm.
    pub(super) memory_mib: u64,
    /// Whether to hide processes of other accounts; see [`can_hide_processes`].
    pub(super) hides_processes: bool,
}

impl View {
    /// Path of the host's directory inside.
    pub(super) fn home(run: &Path) -> PathBuf {
        run.join("h")
    }

    /// Directory of the engine's sockets.
    pub(super) fn sockets(run: &Path) -> PathBuf {
        run.join("s")
    }

    /// Runs `work` on a thread in the host's namespaces. Makes them first if needed.
    pub(super) fn enter<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let namespace = match held(&self.run)? {
            // A namespace made by an older version is kept as long as processes of the engine's account run in it.
            Some(namespace) if self.is_whole(&namespace)? || !system::processes_of(self.uid)?.is_empty() => namespace,
            _ => self.hold(&apart(|| self.make())?)?,
        };
        apart(|| {
            go_into(&namespace)?;
            if let Some(objects) = namespace_at(&objects(&self.run))? {
                setns(objects.as_fd(), CloneFlags::CLONE_NEWIPC).map_err(tell("enter the namespace of objects"))?;
            }
            work()
        })
    }

    /// Whether the namespace was made by this version: older ones made no IPC namespace.
    fn is_whole(&self, namespace: &File) -> io::Result<bool> {
        apart(|| {
            go_into(namespace)?;
            Ok(namespace_at(&objects(&self.run))?.is_some())
        })
    }

    /// Makes the namespaces, and moves the calling thread into them.
    fn make(&self) -> io::Result<File> {
        leave_the_machines()?;
        umask(Mode::empty());
        self.detach_others()?;
        // Open them before empty file systems are mounted over their parents.
        let (host, run) = (directory(&self.host)?, directory(&self.run)?);
        let groups = self.groups.iter().map(|group| Ok((group, directory(group)?)));
        let groups: Vec<(&PathBuf, OwnedFd)> = groups.collect::<io::Result<_>>()?;
        let programs = self.programs_in_shared_places()?;
        for place in SHARED_PLACES.map(Path::new).into_iter().filter(|place| place.is_dir()) {
            if place.starts_with("/dev") {
                mount_empty(OF_HOST, place, &format!("mode=1777,size={}m", self.memory_mib), MsFlags::MS_NOEXEC)?;
            } else {
                mount_empty(OF_HOST, place, "mode=1777,size=64m,nr_inodes=4096", MsFlags::empty())?;
            }
        }
        programs.iter().try_for_each(|(path, program)| bind_read_only(program, path))?;
        replace_queues()?;
        for hidden in &self.hidden {
            make_directory(hidden)?;
            empty(hidden, "mode=0711,size=1m", MsFlags::MS_NOEXEC)?;
        }
        // The cgroups of all controllers are below one directory of each hierarchy.
        let tops: BTreeSet<&Path> = self.groups.iter().filter_map(|group| group.ancestors().nth(2)).collect();
        for top in tops {
            empty(top, "mode=0711,size=1m", MsFlags::MS_NOEXEC)?;
        }
        for (group, handle) in &groups {
            make_directory(group)?;
            bind(handle, group)?;
        }
        make_directory(&self.run)?;
        bind(&run, &self.run)?;
        bind(&host, &Self::home(&self.run))?;
        mount_empty(OF_HOST, &Self::sockets(&self.run), FOR_SOCKETS, MsFlags::MS_NOEXEC)?;
        File::options().create(true).append(true).mode(0o600).open(objects(&self.run))?;
        bind(&File::open("/proc/thread-self/ns/ipc")?, &objects(&self.run))?;
        self.make_etc()?;
        if self.hides_processes {
            hide_processes()?;
        }
        File::open("/proc/thread-self/ns/mnt")
    }

    /// Opens what programs need that are in world-writable directories: each entry of these that a program is, or is
    /// below.
    fn programs_in_shared_places(&self) -> io::Result<BTreeMap<PathBuf, File>> {
        let mut entries = BTreeMap::new();
        for (place, program) in SHARED_PLACES.iter().flat_map(|place| self.programs.iter().map(move |it| (place, it))) {
            let Ok(below) = program.strip_prefix(place) else { continue };
            let Some(name) = below.iter().next() else {
                return Err(io::Error::other(format!(
                    "programs are in {place} itself, of which each host has its own"
                )));
            };
            let entry = Path::new(place).join(name);
            let opened = File::options().read(true).custom_flags(OFlag::O_PATH.bits()).open(&entry);
            entries.insert(
                entry,
                opened.map_err(|error| io::Error::other(format!("open {}: {error}", program.display())))?,
            );
        }
        Ok(entries)
    }

    /// Unmounts the mounts of other hosts. Those below hidden directories are not reachable anyway, but the list of
    /// mounts would show their names. Those of other services are elsewhere and are recognised by
    /// [`Mounted::holds_host`].
    fn detach_others(&self) -> io::Result<()> {
        let real = |path: &PathBuf| fs::canonicalize(path);
        let hidden = self.hidden.iter().filter(|path| path.exists()).map(real).collect::<io::Result<Vec<_>>>()?;
        let own = [real(&self.host)?, real(&self.run)?];
        let mounts = fs::read("/proc/thread-self/mountinfo")?;
        // In reverse order of mounting.
        for Mounted { place, holds_host } in mounted(&mounts).iter().rev() {
            let is_hidden = hidden.iter().any(|hidden| place.starts_with(hidden) && place != hidden);
            let is_own = own.iter().any(|own| own.starts_with(place) || place.starts_with(own));
            if is_own || !(is_hidden || *holds_host) {
                continue;
            }
            match umount2(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                // It was unmounted together with its parent mount.
                Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
                Err(error) => return Err(tell(&format!("let go of {}", place.display()))(error)),
            }
        }
        Ok(())
    }

    /// Mounts an /etc with its own passwd and group; all other entries are symlinks to the machine's. Bind mounts over
    /// the two files would not do: a bind mount disappears when the machine's file is replaced, which is how programs
    /// edit them.
    fn make_etc(&self) -> io::Result<()> {
        let machines = self.run.join("etc");
        let names = fs::read_dir("/etc")?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        let uid = self.uid;
        let passwd = named("/etc/passwd", &format!("os_admin:x:{uid}:{uid}::/nonexistent:/usr/sbin/nologin"))?;
        let group = named("/etc/group", &format!("os_admin:x:{uid}:"))?;
        bind(&directory(Path::new("/etc"))?, &machines)?;
        empty(Path::new("/etc"), "mode=0755,size=4m", MsFlags::MS_NOEXEC)?;
        for name in names.iter().filter(|name| *name != "passwd" && *name != "group") {
            let of_machine = machines.join(name);
            // Copy a symlink as it is, since a relative target counts from its directory.
            let target = fs::read_link(&of_machine).unwrap_or(of_machine);
            symlink(target, Path::new("/etc").join(name))?;
        }
        for (path, contents) in [("/etc/passwd", passwd), ("/etc/group", group)] {
            let mut file = File::options().write(true).create_new(true).mode(0o644).open(path)?;
            io::Write::write_all(&mut file, contents.as_bytes())?;
        }
        Ok(())
    }

    /// Keeps a new namespace alive by a bind mount in the runtime directory.
    fn hold(&self, namespace: &File) -> io::Result<File> {
        release(&self.run)?;
        // A mount namespace can be bind-mounted only onto a private mount.
        let run = Some(&self.run);
        mount(run, &self.run, NONE, MsFlags::MS_BIND, NONE).map_err(tell("mount the runtime directory"))?;
        mount(NONE, &self.run, NONE, MsFlags::MS_PRIVATE, NONE).map_err(tell("make a mount private"))?;
        let file = File::options().create(true).append(true).mode(0o600).open(self.run.join("ns"))?;
        drop(file);
        bind(namespace, &self.run.join("ns"))?;
        held(&self.run)?.ok_or_else(|| io::Error::other("the mount namespace is not held"))
    }
}

/// Makes the directories in a host's runtime directory that serve as mount points.
pub(super) fn prepare(run: &Path) -> io::Result<()> {
    [View::home(run), View::sockets(run), run.join("etc")].iter().try_for_each(|place| make_directory(place))
}

/// Removes the bind mount of a namespace. The namespace ends with the last process in it.
pub(super) fn release(run: &Path) -> io::Result<()> {
    for place in [run.join("ns"), run.to_owned()] {
        // Repeat, in case it was mounted twice, until it is no longer a mount.
        while umount2(&place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
    }
    match held(run)? {
        None => Ok(()),
        Some(_) => Err(io::Error::other(format!("the mount namespace in {} cannot be let go", run.display()))),
    }
}

/// Tests whether namespaces can be made on this machine. The error says why not.
pub(super) fn can_be_made() -> Result<(), String> {
    let tried = apart(|| {
        leave_the_machines()?;
        empty(Path::new("/dev/shm"), "mode=1777,size=1m", MsFlags::MS_NOEXEC)
    });
    tried.map_err(|error| error.to_string())
}

/// Tests whether hosts can be kept from seeing each other's processes. The error says why not.
pub(super) fn can_hide_processes() -> Result<(), String> {
    apart(|| leave_the_machines().and_then(|()| hide_processes())).map_err(|error| error.to_string())
}

/// The mount namespace of a host; `None` if there is none, as after a restart of the machine.
fn held(run: &Path) -> io::Result<Option<File>> {
    namespace_at(&run.join("ns"))
}

/// File, inside, on which the IPC namespace is mounted.
fn objects(run: &Path) -> PathBuf {
    run.join("ipc")
}

/// Opens the namespace that is mounted on a file.
fn namespace_at(place: &Path) -> io::Result<Option<File>> {
    let file = match File::open(place) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let is_namespace = fstatfs(&file)?.filesystem_type() == NAMESPACES;
    Ok(is_namespace.then_some(file))
}

/// Moves the calling thread into new namespaces.
fn leave_the_machines() -> io::Result<()> {
    let both = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    unshare(both).map_err(tell("make a namespace of mounts and one of System V objects"))?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(tell("make mounts private"))
}

/// Moves the calling thread into a mount namespace.
fn go_into(namespace: &File) -> io::Result<()> {
    // setns(2) refuses a thread that shares its working directory with other threads.
    unshare(CloneFlags::CLONE_FS).map_err(tell("have a working directory of its own"))?;
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNS).map_err(tell("enter the mount namespace"))
}

/// Mounts /dev/mqueue again: a mount of mqueue shows the queues of the IPC namespace in which it was made.
fn replace_queues() -> io::Result<()> {
    let place = Path::new("/dev/mqueue");
    if !place.is_dir() {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    match mount(Some(OF_HOST), place, Some("mqueue"), flags, NONE) {
        // The kernel has no message queues.
        Err(nix::Error::ENODEV) => Ok(()),
        mounted => mounted.map_err(tell("mount the message queues")),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    place: PathBuf,
    /// Whether it is the runtime directory of a host, bind-mounted on itself ([`View::hold`]).
    holds_host: bool,
}

/// Parses mountinfo, proc(5): `id parent major:minor root mount-point ...`. Spaces and some other characters are
/// written as a backslash and an octal number.
fn mounted(mounts: &[u8]) -> Vec<Mounted> {
    let parse = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ').map(|field| PathBuf::from(OsString::from_vec(plain(field))));
        let (root, place) = (fields.nth(3)?, fields.next()?);
        let name = place.file_name()?.to_str()?;
        let holds_host = name.parse::<InstanceId>().is_ok() && root.ends_with(name);
        Some(Mounted { place, holds_host })
    };
    mounts.split(|byte| *byte == b'\n').filter_map(parse).collect()
}

fn plain(escaped: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((first, after)) = rest.split_first() {
        let number = after.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        let (byte, after) = match number.filter(|_| *first == b'\\') {
            Some(byte) => (byte, &after[3..]),
            None => (*first, after),
        };
        all.push(byte);
        rest = after;
    }
    all
}

/// Runs `work` on a separate thread, and waits for it.
fn apart<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::other("the thread of a namespace panicked"))?
    })
}

/// Mounts /proc so that processes of other accounts are hidden. Kernels before 5.8 know the option only as a number.
fn hide_processes() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let proc = |options: &str| mount(Some("proc"), "/proc", Some("proc"), flags, Some(options));
    proc("hidepid=invisible").or_else(|_| proc("hidepid=2")).map_err(tell("mount /proc with hidepid"))
}

/// The contents of passwd or group, with `line` added and other lines for `os_admin` removed.
fn named(list: &str, line: &str) -> io::Result<String> {
    let text = fs::read_to_string(list)?;
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("os_admin:")).collect();
    lines.push(line);
    Ok(lines.join("\n") + "\n")
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).map_err(tell(&format!("open {}", path.display())))
}

fn make_directory(path: &Path) -> io::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o711).create(path);
    made.map_err(|error| io::Error::other(format!("make {}: {error}", path.display())))
}

/// Mounts an empty tmpfs.
fn empty(place: &Path, options: &str, more: MsFlags) -> io::Result<()> {
    mount_empty("tmpfs", place, options, more)
}

/// Mounts an empty tmpfs with the given source.
fn mount_empty(source: &str, place: &Path, options: &str, more: MsFlags) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | more;
    mount(Some(source), place, Some("tmpfs"), flags, Some(options))
        .map_err(tell(&format!("mount an empty {}", place.display())))
}

fn bind(from: &impl AsRawFd, to: &Path) -> io::Result<()> {
    let source = format!("/proc/self/fd/{}", from.as_raw_fd());
    mount(Some(source.as_str()), to, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
        .map_err(tell(&format!("mount {}", to.display())))
}

/// Mounts a file or directory, so that nothing can be written to it, where nothing of its name is yet.
fn bind_read_only(from: &File, to: &Path) -> io::Result<()> {
    if from.metadata()?.is_dir() {
        make_directory(to)?;
    } else {
        File::options().write(true).create_new(true).mode(0o600).open(to)?;
    }
    let source = format!("/proc/self/fd/{}", from.as_raw_fd());
    // Not recursive: what is mounted below it would be writable.
    mount(Some(source.as_str()), to, NONE, MsFlags::MS_BIND, NONE).map_err(tell(&format!("mount {}", to.display())))?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(NONE, to, NONE, flags, NONE).map_err(tell(&format!("mount {} read-only", to.display())))
}

fn tell(attempt: &str) -> impl FnOnce(nix::Error) -> io::Error {
    let attempt = attempt.to_owned();
    move |error| io::Error::other(format!("{attempt}: {}", error.desc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_they_are() {
        let id = "80401800-1904-4c4b-85fc-d332cf8a08b8";
        let mounts = format!(
            "30 25 0:26 / /run/a\\040b\\134c rw shared:9 - tmpfs tmpfs rw\n\
             31 30 0:4 /x/{id} /run/x/{id} rw - tmpfs tmpfs rw\n\
             32 30 0:4 / /media/{id} rw - ext4 /dev/sdb rw\n"
        );
        let found: Vec<_> = mounted(mounts.as_bytes()).into_iter().map(|it| (it.place, it.holds_host)).collect();
        let (run, media) = (PathBuf::from("/run/x").join(id), PathBuf::from("/media").join(id));
        assert_eq!(found, [("/run/a b\\c".into(), false), (run, true), (media, false)]);
    }
}
