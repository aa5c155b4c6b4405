//! How much of the volume is in use, and what follows from that.
//!
//! ```text
//! Enough --(more than 100 %)--> Full: sessions begin read-only --(more than 110 %)--> Over: the engine is stopped
//!    ^--------(less than 95 %)---'  ^------------------(100 % or less)------------------'
//! ```
//! It follows from the measure and the ordered size alone, so that a restart of the engine or of the agent changes nothing,
//! and both emptying and growing end it.

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

/// What everything below the directory takes on the disk, and what the engine's processes hold that has no name any more. The
/// engine's account changes what is below it.
fn below(directory: &Path, signs: &Signs) -> io::Result<Measure> {
    let own = nix::unistd::geteuid().as_raw();
    let volume = match Dir::open(directory, &[own]) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Measure { bytes: 0, is_whole: true }),
        opened => opened?,
    };
    let device = rustix::fs::fstat(&volume)?.st_dev;
    let sought = Sought { device: (rustix::fs::major(device), rustix::fs::minor(device)), uid: signs.uid() };
    // First, so that what loses its name meanwhile is missed once rather than counted twice.
    let unlinked = unlinked::measure(sought, signs.members()?)?;
    let named = volume.measure()?;
    Ok(Measure { bytes: named.bytes + unlinked.bytes, is_whole: named.is_whole && unlinked.is_whole })
}

/// The volume's use, and the engine's log; for a volume that is a file system of its own, the file system is asked.
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

/// What counts after this measure, which may have failed; `last` is the last that was whole. What was not found may be there.
fn counted(measured: io::Result<Measure>, last: &mut Option<u64>) -> Option<u64> {
    match measured {
        Ok(Measure { bytes, is_whole: true }) => *last = Some(bytes),
        Ok(Measure { bytes, .. }) => return Some(last.map_or(bytes, |last| last.max(bytes))),
        Err(error) => tracing::warn!("the volume cannot be measured: {error}"),
    }
    *last
}

/// Measures it for as long as somebody listens: more often when it is nearly full, less often when that takes long. `size`
/// is asked each time. Whoever waits is woken by each measure.
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
