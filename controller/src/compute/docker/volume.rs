//! Volumes: a file with an xfs, which has all its blocks from the start, mounted through a loop device. The file system can be grown while it is mounted.
//!
//! Where the machine has no loop devices, a volume is a directory, whose use the agent measures.

#![allow(clippy::disallowed_methods, reason = "the system's programs, and files in the directories of hosts")]

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, umount2};
use trove_strategy::process::if_there;

use crate::compute::ComputeError;
use crate::compute::disk::failed;

/// What the file system keeps for itself: its log, and the room without which it cannot free any.
const OVERHEAD_BYTES: u64 = 96 << 20;
const FILE: &str = "volume.img";
const MOUNT: &str = "volume";
/// Directories in the volume: what a guest has of it, and its engine's log, so that neither can fill the machine's disk.
/// Containers are given these: a volume that is not mounted has none, and no container starts without it.
const DATA: &str = "data";
const LOG: &str = "log";

/// The volume of a host, in the host's directory.
pub(super) struct Volume {
    file: PathBuf,
    mount: PathBuf,
}

/// Where a volume is mounted now.
struct Mounted {
    /// Such as `/dev/loop3`.
    device: PathBuf,
}

/// Why this machine has no loop devices or cannot make the file system, if so.
pub(super) fn obstacle() -> Option<String> {
    let tried = run("losetup", &["--find".as_ref()]).and_then(|_| run("mkfs.xfs", &["-V".as_ref()]));
    tried.err().map(|error| error.to_string())
}

/// Bytes of the file. The agent stops the engine when more than 110 % of the ordered size are in use, and restricts it at
/// 100 %; the file system is larger, so that this happens before an engine finds it full.
fn bytes(gib: u64) -> u64 {
    let ordered = gib.saturating_mul(1 << 30);
    ordered + ordered / 8 + OVERHEAD_BYTES
}

impl Volume {
    pub(super) fn of(host: &Path) -> Self {
        Self { file: host.join(FILE), mount: host.join(MOUNT) }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.mount.join(DATA)
    }

    pub(super) fn log(&self) -> PathBuf {
        self.mount.join(LOG)
    }

    /// Makes the volume of a host that was never whole. `obstacle` says why it has to be a directory.
    pub(super) fn make(&self, gib: u64, obstacle: Option<&str>) -> Result<(), ComputeError> {
        make_directory(&self.mount)?;
        if self.is_there()? {
            return Ok(());
        }
        if obstacle.is_some() { self.make_parts() } else { self.make_file(bytes(gib)) }
    }

    fn make_parts(&self) -> Result<(), ComputeError> {
        [self.log(), self.data()].iter().try_for_each(|part| make_directory(part))
    }

    /// Whether there is a file system, or a directory in its place.
    fn is_there(&self) -> Result<bool, ComputeError> {
        let (file, data) = (self.file.as_path(), self.data());
        for path in [file, &data] {
            if path.try_exists().map_err(failed("look for", path))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Mounts the volume and grows it to this size, as far as that has not been done. Returns whether it is a file system of
    /// its own.
    ///
    /// # Errors
    /// Fatal: it is not there. Another one in its place would be an engine without its data.
    pub(super) fn ensure(&self, gib: u64) -> Result<bool, ComputeError> {
        if !self.is_there()? {
            let text = format!("the volume {} is gone: put it back, or delete the instance", self.file.display());
            return Err(ComputeError::Fatal(text));
        }
        if !self.file.try_exists().map_err(failed("look for", &self.file))? {
            self.make_parts()?;
            return Ok(false);
        }
        self.lengthen(bytes(gib))?;
        match self.mounted()? {
            None => self.mount()?,
            Some(mounted) => run("losetup", &["--set-capacity".as_ref(), mounted.device.as_ref()])
                .map_err(failed("grow the loop device of", &self.file))?,
        }
        // It does nothing where there is nothing to grow.
        run("xfs_growfs", &["-d".as_ref(), self.mount.as_ref()]).map_err(failed("grow", &self.mount))?;
        self.make_parts()?;
        Ok(true)
    }

    /// Makes the file under another name, so that a file with the right name is whole.
    fn make_file(&self, bytes: u64) -> Result<(), ComputeError> {
        let new = self.file.with_extension("new");
        // A maker that was killed may have left one, into which its mkfs still writes.
        if_there(fs::remove_file(&new)).map_err(failed("remove", &new))?;
        let file = File::options().write(true).create_new(true).mode(0o600).open(&new);
        file.and_then(|file| allocate(&file, bytes)).map_err(failed("make", &new))?;
        run("mkfs.xfs", &["-q".as_ref(), "-f".as_ref(), new.as_ref()])
            .map_err(failed("make a file system in", &new))?;
        let synced = File::open(&new).and_then(|file| file.sync_all());
        synced.and_then(|()| fs::rename(&new, &self.file)).map_err(failed("make", &self.file))
    }

    /// A volume never shrinks.
    fn lengthen(&self, bytes: u64) -> Result<(), ComputeError> {
        let file = File::options().write(true).open(&self.file).map_err(failed("open", &self.file))?;
        let length = file.metadata().map_err(failed("look at", &self.file))?.len();
        if length >= bytes {
            return Ok(());
        }
        allocate(&file, bytes).and_then(|()| file.sync_all()).map_err(failed("lengthen", &self.file))
    }

    fn mount(&self) -> Result<(), ComputeError> {
        // mount(8) takes the loop device that the file has, or a new one that is given back when the volume is unmounted.
        let options = "loop,nodev,nosuid,noatime";
        let words = ["-t".as_ref(), "xfs".as_ref(), "-o".as_ref(), options.as_ref(), self.file.as_ref()];
        let words: Vec<&Path> = words.into_iter().chain([self.mount.as_path()]).collect();
        run("mount", &words).map_err(|error| ComputeError::Transient(format!("mount {}: {error}", self.file.display())))
    }

    /// Unmounts the volume. No process of the host may be left.
    pub(super) fn unmount(&self) -> Result<(), ComputeError> {
        while self.mounted()?.is_some() {
            umount2(&self.mount, MntFlags::UMOUNT_NOFOLLOW)
                .map_err(|errno| ComputeError::Transient(format!("unmount {}: {errno}", self.mount.display())))?;
        }
        Ok(())
    }

    fn mounted(&self) -> Result<Option<Mounted>, ComputeError> {
        let list =
            fs::read_to_string("/proc/self/mountinfo").map_err(failed("read", Path::new("/proc/self/mountinfo")))?;
        Ok(find(&list, &self.mount))
    }
}

fn make_directory(path: &Path) -> Result<(), ComputeError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make", path))
}

/// Gives a file its size with all its blocks: the file system in it would fail when the disk had no room for one.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let length = i64::try_from(bytes).map_err(io::Error::other)?;
    Ok(fallocate(file, FallocateFlags::empty(), 0, length)?)
}

/// What is mounted there. A line is `id parent major:minor root place options [tags] - kind source options`, see proc(5).
fn find(list: &str, place: &Path) -> Option<Mounted> {
    list.lines().rev().find_map(|line| {
        let (first, last) = line.split_once(" - ")?;
        let is_there = first.split(' ').nth(4).is_some_and(|found| Path::new(&unescaped(found)) == place);
        is_there.then(|| last.split(' ').nth(1).map(|device| Mounted { device: unescaped(device).into() }))?
    })
}

/// The kernel writes blanks and the like in octal.
fn unescaped(text: &str) -> String {
    ["\\040 ", "\\011\t", "\\012\n", "\\134\\"]
        .into_iter()
        .fold(text.to_owned(), |text, pair| text.replace(&pair[..4], &pair[4..]))
}

/// Runs a program; the error is what it said.
fn run(program: &str, args: &[&Path]) -> io::Result<()> {
    let output = Command::new(program).args(args).env("LC_ALL", "C").output();
    let output = output.map_err(|error| match error.kind() {
        ErrorKind::NotFound => io::Error::new(ErrorKind::NotFound, format!("the program {program} is not installed")),
        _ => error,
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(io::Error::other(format!("{program}: {}: {said}", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_at_a_place_is_found_and_its_device() {
        let list = "29 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n\
                    70 29 7:3 / /srv/a\\040b/volume rw,nosuid - xfs /dev/loop3 rw\n\
                    71 70 7:4 / /srv/a\\040b/volume rw,nosuid shared:9 - xfs /dev/loop4 rw\n";
        assert_eq!(find(list, Path::new("/srv/a b/volume")).unwrap().device, Path::new("/dev/loop4"));
        assert!(find(list, Path::new("/srv")).is_none());
    }

    /// As root on a machine with loop devices.
    #[test]
    fn a_volume_is_made_grown_while_mounted_and_found_again() {
        let why = if nix::unistd::geteuid().is_root() { obstacle() } else { Some("not root".to_owned()) };
        if let Some(why) = why {
            println!("skipped: {why}");
            return;
        }
        let host = tempfile::tempdir().unwrap();
        let volume = Volume::of(host.path());
        let size = || {
            let facts = nix::sys::statvfs::statvfs(&volume.data()).unwrap();
            facts.blocks() * facts.fragment_size()
        };
        // A maker that was killed leaves this.
        fs::write(host.path().join("volume.new"), "half").unwrap();
        volume.make(1, None).unwrap();
        assert!(volume.ensure(1).unwrap());
        assert!(size() > (1 << 30) * 11 / 10, "{}", size());
        fs::write(volume.data().join("file"), "kept").unwrap();
        volume.make(1, None).unwrap();
        assert!(volume.ensure(1).unwrap());
        volume.make(2, Some("no matter now")).unwrap();
        assert!(volume.ensure(2).unwrap());
        assert!(size() > (2 << 30) * 11 / 10, "{}", size());
        let device = volume.mounted().unwrap().unwrap().device;
        volume.unmount().unwrap();
        volume.unmount().unwrap();
        assert!(volume.ensure(1).unwrap(), "it does not shrink");
        assert!(size() > (2 << 30) * 11 / 10);
        assert_eq!(fs::read_to_string(volume.data().join("file")).unwrap(), "kept");
        volume.unmount().unwrap();
        assert!(!volume.data().exists(), "nothing is put where it is not mounted");
        fs::rename(host.path().join(FILE), host.path().join("elsewhere")).unwrap();
        let gone = volume.ensure(1).unwrap_err().to_string();
        assert!(gone.contains("is gone"), "{gone}");
        let backing = Path::new("/sys/block").join(device.file_name().unwrap()).join("loop/backing_file");
        let backing = fs::read_to_string(backing).unwrap_or_default();
        assert!(!backing.contains(host.path().to_str().unwrap()), "{backing}");
    }

    #[test]
    fn where_there_are_no_loop_devices_a_volume_is_a_directory_and_stays_one() {
        let host = tempfile::tempdir().unwrap();
        let volume = Volume::of(host.path());
        volume.make(1, Some("no loop devices")).unwrap();
        assert!(!volume.ensure(1).unwrap());
        volume.make(2, None).unwrap();
        assert!(!volume.ensure(2).unwrap());
        volume.unmount().unwrap();
    }
}
