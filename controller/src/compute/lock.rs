//! File locks between the controllers of a machine. They are held only for short work on this machine, never while
//! waiting for an agent or the network. A lock that is held for long means that its holder is stopped (SIGSTOP). The
//! waiter then fails with the holder's pid and tries again later. The lock is never broken, since the holder would
//! continue in the middle of its work.

#![allow(clippy::disallowed_methods, reason = "/proc, and directories of root's in tests")]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Pause between two tries. A blocking flock(2) has no time limit.
const PAUSE: Duration = Duration::from_millis(10);

/// Locks the file or directory until the result is dropped. Blocks the thread.
///
/// # Errors
/// Another process held the lock until the time limit; the error names its pid.
pub(in crate::compute) fn take(mut file: File, limit: Duration) -> io::Result<Flock<File>> {
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

/// Pid of the holder of the lock, if visible. For the error's text only.
fn holder(file: &File) -> Option<i32> {
    let inode = file.metadata().ok()?.ino().to_string();
    fs::read_to_string("/proc/locks").ok()?.lines().find_map(|line| {
        // A line is `1: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF`; lines of waiting processes have an arrow after
        // the number.
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
