//! Measures how much of the volume is in use, and restricts the engine when it is full.
//!
//! ```text
//! Enough --(more than 100 %)--> Full: sessions begin read-only --(more than 110 %)--> Over: the engine is stopped
//!    ^--------(less than 95 %)---'  ^------------------(100 % or less)------------------'
//! ```
//! The state depends only on the measurement and the ordered size. So a restart of the engine or the agent changes
//! nothing, and deleting data or resizing the volume ends the restriction.

#![allow(clippy::disallowed_methods, reason = "the root of the volume is the agent's; below it goes a handle")]

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use trove_strategy::beneath::{Dir, Measure};

use crate::engine_log::EngineLog;
use crate::process::Signs;
use crate::unlinked::{self, Sought};

/// Pauses between two measurements: usually, and when the volume is nearly full.
const SELDOM: Duration = Duration::from_secs(5);
const OFTEN: Duration = Duration::from_secs(1);
/// Use of the volume, per cent, from which it is measured often.
const NEAR: u64 = 80;
/// The pause after a measurement is at least so many times its duration.
const REST: u32 = 10;

/// State of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room for more data.
    Enough,
    /// It is full: sessions begin read-only.
    Full,
    /// More than 110 % is in use: the engine is stopped until at most 100 % is.
    Over,
}

impl Room {
    /// The next state, with `used` bytes in use on a volume of `size` bytes. A `size` of 0 means no limit.
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

    /// Text for the tenant.
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

/// Disk space of everything in the directory, and of unlinked files that the engine's processes use. The engine's
/// account can change everything in the directory.
fn below(directory: &Path, signs: &Signs) -> io::Result<Measure> {
    let own = nix::unistd::geteuid().as_raw();
    let volume = match Dir::open(directory, &[own]) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Measure { bytes: 0, is_whole: true }),
        opened => opened?,
    };
    let device = rustix::fs::fstat(&volume)?.st_dev;
    let sought = Sought { device: (rustix::fs::major(device), rustix::fs::minor(device)), uid: signs.uid() };
    // Unlinked files first: a file that is unlinked between the two measurements is missed once instead of counted
    // twice.
    let unlinked = unlinked::measure(sought, signs.members()?)?;
    let named = volume.measure()?;
    Ok(Measure { bytes: named.bytes + unlinked.bytes, is_whole: named.is_whole && unlinked.is_whole })
}

/// Disk space of the volume and of the engine's log. If the volume is a file system of its own, statvfs(3) tells.
fn measure(directory: &Path, log: &EngineLog, signs: &Signs) -> io::Result<Measure> {
    let device = |path: &Path| std::fs::metadata(path).map(|facts| facts.dev()).ok();
    let own = directory.parent().is_some_and(|parent| device(parent) != device(directory));
    let used = match nix::sys::statvfs::statvfs(directory) {
        Ok(facts) if own => {
            Measure { bytes: (facts.blocks() - facts.blocks_free()) * facts.fragment_size(), is_whole: true }
        }
        _ => below(directory, signs)?,
    };
    Ok(Measure { bytes: used.bytes + log.used_bytes(), ..used })
}

/// The value to use after a measurement. If it failed, that is the last complete one (`last`); if it is incomplete, the
/// greater of the two, since what it missed may still be there.
fn counted(measured: io::Result<Measure>, last: &mut Option<u64>) -> Option<u64> {
    match measured {
        Ok(Measure { bytes, is_whole: true }) => *last = Some(bytes),
        Ok(Measure { bytes, .. }) => return Some(last.map_or(bytes, |last| last.max(bytes))),
        Err(error) => tracing::warn!("the volume cannot be measured: {error}"),
    }
    *last
}

/// Measures the volume until the receiver is dropped: more often when it is nearly full, less often when measuring
/// takes long. `size` is called each time. Receivers are notified of each measurement.
pub fn watch(
    directory: PathBuf,
    log: Arc<EngineLog>,
    signs: Signs,
    size: impl Fn() -> u64 + Send + 'static,
) -> watch::Receiver<Option<u64>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let mut last = None;
        loop {
            let begun = Instant::now();
            let (directory, log, signs) = (directory.clone(), log.clone(), signs.clone());
            let measured = tokio::task::spawn_blocking(move || measure(&directory, &log, &signs)).await;
            let used = counted(measured.map_err(io::Error::other).and_then(|measured| measured), &mut last);
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
    fn what_was_not_found_counts_until_it_is_seen_to_be_gone() {
        let mut last = None;
        let mut measured = |bytes, is_whole| counted(Ok(Measure { bytes, is_whole }), &mut last);
        assert_eq!([measured(3, false), measured(9, true), measured(5, false)], [Some(3), Some(9), Some(9)]);
        assert_eq!([measured(12, false), measured(5, false), measured(2, true)], [Some(12), Some(9), Some(2)]);
        assert_eq!(counted(Err(io::Error::other("no descriptor is left")), &mut last), Some(2));
        assert_eq!(counted(Err(io::Error::other("no descriptor is left")), &mut None), None);
    }

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
