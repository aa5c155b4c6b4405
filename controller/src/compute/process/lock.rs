//! Locks between the controllers of a machine. They are held around short work on this machine alone, never while an agent
//! or a network is waited for. One that is held for longer is that of a controller that is stopped, and whoever wants it
//! says so, and tries again later: to break it would let the other go on in the midst of what it was about to do.

#![allow(clippy::disallowed_methods, reason = "/proc, and directories of root's in tests")]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Between two tries. A wait in the kernel could not be bounded.
const PAUSE: Duration = Duration::from_millis(10);

/// Locks the file, or directory, until the result is dropped. Blocks the thread.
///
/// # Errors
/// Another process has had it for so long: named by its pid.
pub(super) fn take(mut file: File, limit: Duration) -> io::Result<Flock<File>> {
    let deadline = Instant::now() + limit;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file = back,
            Err((back, Errno::EWOULDBLOCK)) => {
                let whose = holder(&back).map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
                let text = format!("{whose} has had the lock for {} s; is it stopped?", limit.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            Err((_, errno)) => return Err(errno.into()),
        }
        std::thread::sleep(PAUSE);
    }
}

/// Who has locked it, as far as can be seen: for the message alone.
fn holder(file: &File) -> Option<i32> {
    let inode = file.metadata().ok()?.ino().to_string();
    fs::read_to_string("/proc/locks").ok()?.lines().find_map(|line| {
        // 1: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF; the lines of those who wait have an arrow.
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = fields.as_slice() else { return None };
        (place.rsplit(':').next()? == inode).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_another_has_for_long_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let open = || File::open(directory.path()).unwrap();
        let limit = Duration::from_secs(1);
        let held = take(open(), limit).unwrap();
        let begun = Instant::now();
        let error = take(open(), limit).unwrap_err().to_string();
        assert!(begun.elapsed() < limit * 10);
        assert!(error.contains(&format!("process {} has had the lock", std::process::id())), "{error}");
        let released = std::thread::spawn(move || {
            std::thread::sleep(limit);
            drop(held);
        });
        take(open(), limit * 20).unwrap();
        released.join().unwrap();
    }
}
