//! Removes what an engine's processes leave in memory when they end: files in `/dev/shm`, `/tmp` and the socket
//! directory, System V objects and message queues. They count against the engine's memory limit and fill these file
//! systems, so they are removed before each start.
//!
//! Only mounts that the compute driver made for this host are emptied, never those of the machine.

#![allow(clippy::disallowed_methods, reason = "the kernel's list of mounts")]

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use trove_strategy::beneath::Dir;
use trove_strategy::{Owner, RealHost};

/// Mount source (the device field) that the compute driver gives to mounts that it makes for a host.
const OF_HOST: &[u8] = b"trove-host";

/// A line of /proc/self/mountinfo, see proc(5).
#[derive(Debug, PartialEq, Eq)]
struct Mount<'a> {
    /// Major and minor number.
    device: (u32, u32),
    root: &'a [u8],
    place: &'a Path,
    source: &'a [u8],
}

impl<'a> Mount<'a> {
    /// `id parent major:minor root place options [tags] - kind source options`
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let (major, minor) = std::str::from_utf8(fields.nth(2)?).ok()?.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let (root, place) = (fields.next()?, Path::new(OsStr::from_bytes(fields.next()?)));
        let source = fields.skip_while(|field| *field != b"-").nth(2)?;
        Some(Self { device, root, place, source })
    }
}

/// Empties the host's own mounts and IPC namespace. No process of the engine's account may be running. Does nothing
/// where the host has no mounts of its own.
pub(crate) fn remove(host: &RealHost) {
    let outcomes = match std::fs::read("/proc/self/mountinfo") {
        Ok(mounts) => {
            let mounts: Vec<Mount<'_>> = mounts.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect();
            let own = mounts.iter().filter(|mount| mount.source == OF_HOST);
            own.map(empty).chain([remove_objects(&mounts, host)]).collect()
        }
        Err(error) => vec![Err(tell("read the list of mounts", &error))],
    };
    // Not fatal: the engine may start in spite of leftovers.
    for error in outcomes.into_iter().filter_map(Result::err) {
        tracing::warn!("what an earlier life of the engine left is still there: {error}");
    }
}

fn empty(mount: &Mount<'_>) -> io::Result<()> {
    let empty = || {
        let directory = Dir::open(mount.place, &[])?;
        let device = rustix::fs::fstat(&directory)?.st_dev;
        if (rustix::fs::major(device), rustix::fs::minor(device)) != mount.device {
            return Err(io::Error::other("something else is mounted over it"));
        }
        directory.empty()
    };
    empty().map_err(|error| tell(&format!("empty {}", mount.place.display()), &error))
}

/// Removes all System V objects, if the IPC namespace of this process is the host's own, which one of its mounts shows.
/// `ipcrm` runs in the agent's cgroups, since those of the engine may have no memory left.
fn remove_objects(mounts: &[Mount<'_>], host: &RealHost) -> io::Result<()> {
    let namespace = std::fs::read_link("/proc/self/ns/ipc")?;
    if !mounts.iter().any(|mount| mount.root == namespace.as_os_str().as_bytes()) {
        return Ok(());
    }
    let output = host.command(Path::new("ipcrm"), Owner::Agent).arg("--all").output();
    let output = output.map_err(|error| tell("start ipcrm", &error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("ipcrm --all: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

fn tell(attempt: &str, error: &io::Error) -> io::Error {
    io::Error::other(format!("{attempt}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_host_are_told_from_the_machines() {
        let own = b"610 520 0:84 / /dev/shm rw,nosuid shared:7 - tmpfs trove-host rw,size=4096k";
        let own = Mount::parse(own).unwrap();
        assert_eq!((own.device, own.place, own.source), ((0, 84), Path::new("/dev/shm"), OF_HOST));
        let machines = Mount::parse(b"31 23 0:28 / /dev/shm rw - tmpfs tmpfs rw").unwrap();
        assert_ne!(machines.source, OF_HOST);
        let held = Mount::parse(b"700 520 0:4 ipc:[4026532] /run/x/ipc rw - nsfs nsfs rw").unwrap();
        assert_eq!(held.root, b"ipc:[4026532]");
        assert_eq!(Mount::parse(b""), None);
    }

    /// The test runs outside of a host, so `/dev/shm` is the machine's.
    #[test]
    fn what_is_the_machines_stays() {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let own = trove_strategy::Account::own().unwrap();
        remove(&RealHost::new(own.clone(), own));
        assert!(file.path().exists());
    }
}
