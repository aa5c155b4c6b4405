//! How much of the volume is in use, and what follows from that.
//!
//! ```text
//! Enough --(more than 100 %)--> Full: sessions begin read-only --(more than 110 %)--> Over: the engine is stopped
//!    ^--------(less than 95 %)---'  ^------------------(100 % or less)------------------'
//! ```
//! It follows from the measure and the ordered size alone, so that a restart of the engine or of the agent changes nothing,
//! and both emptying and growing end it.

#![allow(clippy::disallowed_methods, reason = "the root of the volume is the agent's; below it goes a handle")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use trove_strategy::beneath::Dir;

use crate::engine_log::EngineLog;

/// Between two measures, and when the volume is nearly full.
const SELDOM: Duration = Duration::from_secs(5);
const OFTEN: Duration = Duration::from_secs(1);
/// Per cent of the volume from which it is measured often.
const NEAR: u64 = 80;
/// A walk through the files is followed by a pause of so many times its own duration.
const REST: u32 = 10;

/// What the volume has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// More data.
    Enough,
    /// No more: sessions begin read-only.
    Full,
    /// Not even what is there: the engine is stopped.
    Over,
}

impl Room {
    /// With so many bytes in use on a volume of so many. A volume of no size has no limit.
    #[must_use]
    pub fn next(self, used: u64, size: u64) -> Self {
        let over = |percent: u64| u128::from(used) * 100 > u128::from(size) * u128::from(percent);
        match self {
            _ if size == 0 => Self::Enough,
            _ if over(110) => Self::Over,
            Self::Over if over(100) => Self::Over,
            Self::Enough if !over(100) => Self::Enough,
            _ if over(95) => Self::Full,
            _ => Self::Enough,
        }
    }

    /// What a tenant is told.
    pub fn words(self, size: u64) -> String {
        let gib = size >> 30;
        match self {
            Self::Enough => String::new(),
            Self::Full => format!(
                "The volume of {gib} GiB is full: sessions begin read-only until less than 95 % of it are in use, or it \
                 is resized."
            ),
            Self::Over => format!(
                "More than the volume of {gib} GiB is in use: the engine is stopped until the volume is resized, or no \
                 more than its size is in use."
            ),
        }
    }
}

/// Bytes that everything below the directory takes on the disk. The engine's account changes what is below it.
fn used_bytes(directory: &Path) -> u64 {
    let own = nix::unistd::geteuid().as_raw();
    Dir::open(directory, &[own]).and_then(|volume| volume.used_bytes()).unwrap_or_default()
}

/// The volume's use, and the engine's log; for a volume that is a file system of its own, the file system is asked.
fn measure(directory: &Path, log: &EngineLog) -> u64 {
    let device = |path: &Path| std::fs::metadata(path).map(|facts| facts.dev()).ok();
    let own = directory.parent().is_some_and(|parent| device(parent) != device(directory));
    let used = match nix::sys::statvfs::statvfs(directory) {
        Ok(facts) if own => (facts.blocks() - facts.blocks_free()) * facts.fragment_size(),
        _ => used_bytes(directory),
    };
    used + log.used_bytes()
}

/// Measures it for as long as somebody listens: more often when it is nearly full, less often when that takes long. `size`
/// is asked each time. Whoever waits is woken by each measure.
pub fn watch(
    directory: PathBuf,
    log: Arc<EngineLog>,
    size: impl Fn() -> u64 + Send + 'static,
) -> watch::Receiver<Option<u64>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        loop {
            let begun = Instant::now();
            let (directory, log) = (directory.clone(), log.clone());
            // A measure that fails to end is none.
            let used = tokio::task::spawn_blocking(move || measure(&directory, &log)).await.ok();
            if used.is_some() && sender.send(used).is_err() {
                return;
            }
            let near = used.is_some_and(|used| u128::from(used) * 100 > u128::from(size()) * u128::from(NEAR));
            let pause = if near { OFTEN } else { SELDOM };
            tokio::time::sleep(pause.max(begun.elapsed() * REST)).await;
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_full_and_over_full_and_has_room_again() {
        let mut room = Room::Enough;
        for (used, expected) in [
            (99, Room::Enough),
            (100, Room::Enough),
            (101, Room::Full),
            (96, Room::Full),
            (110, Room::Full),
            (111, Room::Over),
            (101, Room::Over),
            (100, Room::Full),
            (95, Room::Enough),
            (100, Room::Enough),
            (200, Room::Over),
            (3, Room::Enough),
        ] {
            room = room.next(used, 100);
            assert_eq!(room, expected, "at {used} %");
        }
        assert_eq!(Room::Over.next(120, 200), Room::Enough, "it has grown");
        assert_eq!(Room::Over.next(120, 0), Room::Enough, "there is no volume");
    }
}
