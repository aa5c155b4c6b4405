//! Stops all processes of the engine for a moment, in which nothing in its volume is moved: the control groups of version 2
//! can do that (`cgroup.freeze`, Linux 5.2), and only root may write to them. A process that is frozen can be killed.

#![allow(clippy::disallowed_methods, reason = "control groups, which nobody but root writes")]

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long to wait until all are frozen. Who does not get there waits in the kernel for one that is frozen.
const LONGEST_FREEZING: Duration = Duration::from_secs(1);

/// While this lives, the processes in the control groups are frozen.
#[derive(Debug)]
pub(crate) struct Frozen(Vec<PathBuf>);

impl Frozen {
    /// `None` if none of the control groups can be frozen.
    pub(crate) fn new(groups: &[PathBuf]) -> Option<Self> {
        let mut frozen = Self(Vec::new());
        for group in groups {
            let file = group.join("cgroup.freeze");
            // Not created where there is none, as in version 1.
            if file.exists() && fs::write(&file, "1").is_ok() {
                frozen.0.push(file);
                if let Err(error) = settled(&group.join("cgroup.events")) {
                    tracing::warn!("it is not known whether all of the engine is frozen: {error}");
                }
            }
        }
        (!frozen.0.is_empty()).then_some(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.iter().for_each(|file| write_thawed(file));
    }
}

/// Thaws what an earlier agent left frozen when it was killed.
pub(crate) fn thaw(groups: &[PathBuf]) {
    groups
        .iter()
        .map(|group| group.join("cgroup.freeze"))
        .filter(|file| file.exists())
        .for_each(|file| write_thawed(&file));
}

fn write_thawed(file: &std::path::Path) {
    if let Err(error) = fs::write(file, "0") {
        tracing::error!("the engine may be frozen: write 0 to {}: {error}", file.display());
    }
}

/// Waits until the kernel says that all are frozen, for at most [`LONGEST_FREEZING`].
fn settled(events: &std::path::Path) -> io::Result<()> {
    let end = Instant::now() + LONGEST_FREEZING;
    let mut file = File::open(events)?;
    loop {
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || text.lines().any(|line| line == "frozen 1") {
            return Ok(());
        }
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&left))?;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::path::Path;
    use std::process::{Child, Command};

    use super::*;

    /// A control group of this test's, with a process that counts.
    struct Group(PathBuf, Child, tempfile::TempDir);

    impl Group {
        fn new() -> Option<Self> {
            let tops = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
            let top = tops.into_iter().find(|top| top.join("cgroup.controllers").exists())?;
            let group = top.join(format!("trove-rs-test-{}", std::process::id()));
            fs::create_dir(&group).ok()?;
            let scratch = tempfile::tempdir().unwrap();
            let script = "while :; do echo >> counted; sleep 0.01; done";
            let child = Command::new("sh").args(["-c", script]).current_dir(scratch.path()).spawn().unwrap();
            fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
            Some(Self(group, child, scratch))
        }

        fn counted(&self) -> u64 {
            fs::metadata(self.2.path().join("counted")).map_or(0, |facts| facts.len())
        }

        fn counts(&self) -> bool {
            let (before, end) = (self.counted(), Instant::now() + Duration::from_secs(1));
            while self.counted() == before && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
            self.counted() > before
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            fs::write(self.0.join("cgroup.kill"), "1").unwrap();
            let _ = self.1.wait();
            let end = Instant::now() + Duration::from_secs(5);
            while fs::remove_dir(&self.0).is_err() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    #[test]
    fn nothing_moves_while_frozen_and_a_new_agent_thaws() {
        let Some(mut group) = Group::new() else {
            println!("skipped: only root makes control groups of version 2");
            return;
        };
        let groups = [PathBuf::from("/nonexistent"), group.0.clone()];
        assert!(group.counts());
        let frozen = Frozen::new(&groups).unwrap();
        assert!(!group.counts());
        drop(frozen);
        assert!(group.counts());
        std::mem::forget(Frozen::new(&groups).unwrap());
        assert!(!group.counts());
        thaw(&groups);
        assert!(group.counts());
        let _frozen = Frozen::new(&groups).unwrap();
        group.1.kill().unwrap();
        assert_eq!(group.1.wait().unwrap().signal(), Some(9), "a frozen process can be killed");
        assert!(Frozen::new(&groups[..1]).is_none());
    }
}
