//! Measures how much of the volume is in use, and restricts the engine when it is full.
//!
//! ```text
//! Enough --(more than 100 %)--> Full: sessions begin read-only --(more than 110 %)--> Over: the engine is stopped
//!    ^--------(less than 95 %)---'  ^------------------(100 % or less)------------------'
//! ```
//! The state depends only on the measurement and the ordered size. So a restart of the engine or the agent changes
//! nothing, and deleting data or resizing the volume ends the restriction.
//!
//! While files are moved, a measurement is not whole. After a few of these the engine is frozen for the next one.

#![allow(clippy::disallowed_methods, reason = "the root of the volume is the agent's; below it goes a handle")]

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use trove_strategy::beneath::{Dir, Measure};

use crate::freeze::Frozen;
use crate::output_log::OutputLog;
use crate::process::Signs;
use crate::unlinked::{self, Sought};

/// Pauses between two measurements: usually, and when the volume is nearly full.
const SELDOM: Duration = Duration::from_secs(5);
const OFTEN: Duration = Duration::from_secs(1);
/// Use of the volume, per cent, from which it is measured often.
const NEAR: u64 = 80;
/// The pause after a measurement is at least so many times its duration, but at most this long: what makes measurements slow
/// may be done on purpose.
const REST: u32 = 10;
const LONGEST_REST: Duration = Duration::from_secs(30);
/// After so many measurements in a row that were not whole, the engine is frozen for the next ones until one is. After as many
/// more that are not whole all the same, the volume counts as over-full.
const PATIENCE: u32 = 3;
/// How long the engine is frozen at most. A measurement takes a second for a million files that were just looked at.
const LONGEST_FREEZE: Duration = Duration::from_secs(10);

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
    pub fn words(self, used: u64, size: u64) -> String {
        let (gib, least) = (size >> 30, used.div_ceil(1 << 30));
        match self {
            Self::Enough => String::new(),
            Self::Full => format!(
                "The volume of {gib} GiB is full: sessions begin read-only until less than 95 % of it are in use, or it \
                 is resized."
            ),
            Self::Over => format!(
                "More than the volume of {gib} GiB is in use: the engine is stopped until the volume is resized. Resize \
                 it to {least} GiB or more."
            ),
        }
    }
}

/// Disk space of everything in the directory, and of unlinked files that the engine's processes use. The engine's
/// account can change everything in the directory; `frozen_until` is for when it cannot.
fn below(directory: &Path, signs: &Signs, frozen_until: Option<std::time::Instant>) -> io::Result<Measure> {
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
    let named = match frozen_until {
        Some(end) => volume.measure_at_rest(end)?,
        None => volume.measure()?,
    };
    Ok(Measure { bytes: named.bytes + unlinked.bytes, is_whole: named.is_whole && unlinked.is_whole })
}

/// Disk space of the volume and of the engine's log. If the volume is a file system of its own, statvfs(3) tells.
fn measure(directory: &Path, log: &OutputLog, signs: &Signs, freezes: bool) -> io::Result<Measure> {
    let device = |path: &Path| std::fs::metadata(path).map(|facts| facts.dev()).ok();
    let own = directory.parent().is_some_and(|parent| device(parent) != device(directory));
    let used = match nix::sys::statvfs::statvfs(directory) {
        Ok(facts) if own => {
            Measure { bytes: (facts.blocks() - facts.blocks_free()) * facts.fragment_size(), is_whole: true }
        }
        _ => {
            let end = std::time::Instant::now() + LONGEST_FREEZE;
            let frozen = if freezes { Frozen::new(signs.groups()) } else { None };
            below(directory, signs, frozen.as_ref().map(|_| end))?
        }
    };
    Ok(Measure { bytes: used.bytes + log.used_bytes(), ..used })
}

/// What follows from the measurements so far.
#[derive(Debug, Default)]
struct Series {
    /// The last one that was whole.
    last: Option<u64>,
    /// How many in a row were not.
    broken: u32,
}

impl Series {
    /// Whether the engine is frozen for the next one.
    fn freezes(&self) -> bool {
        self.broken >= PATIENCE
    }

    /// The value to use after a measurement. If it failed, that is the last whole one; if it is not whole, the greater of the
    /// two, since what it missed may still be there. `can_freeze`: whether the engine was frozen where that was due; without
    /// that, nothing is concluded from a long series, which an honest engine that makes and removes files can cause.
    fn counted(&mut self, measured: io::Result<Measure>, size: u64, can_freeze: bool) -> Option<u64> {
        match measured {
            Ok(Measure { bytes, is_whole: true }) => {
                *self = Self { last: Some(bytes), broken: 0 };
                self.last
            }
            Ok(Measure { bytes, .. }) => {
                self.broken = self.broken.saturating_add(1);
                let known = self.last.map_or(bytes, |last| last.max(bytes));
                if self.broken < 2 * PATIENCE || !can_freeze || size == 0 {
                    return Some(known);
                }
                if self.broken == 2 * PATIENCE {
                    tracing::warn!(
                        "the volume cannot be measured even with a frozen engine, so it counts as over-full"
                    );
                }
                Some(known.max(size + size / 8 + 1))
            }
            Err(error) => {
                tracing::warn!("the volume cannot be measured: {error}");
                self.last
            }
        }
    }
}

fn pause(took: Duration, used: Option<u64>, size: u64, is_broken: bool) -> Duration {
    let near = used.is_some_and(|used| u128::from(used) * 100 > u128::from(size) * u128::from(NEAR));
    let pause = if near || is_broken { OFTEN } else { SELDOM };
    pause.max((took * REST).min(LONGEST_REST))
}

/// Measures the volume until the receiver is dropped: more often when it is nearly full, less often when measuring
/// takes long. `size` is called each time. Receivers are notified of each measurement.
pub fn watch(
    directory: PathBuf,
    log: Arc<OutputLog>,
    signs: Signs,
    size: impl Fn() -> u64 + Send + 'static,
) -> watch::Receiver<Option<u64>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let mut series = Series::default();
        let can_freeze = signs.groups().iter().any(|group| group.join("cgroup.freeze").exists());
        loop {
            let begun = Instant::now();
            let (directory, log, signs, freezes) = (directory.clone(), log.clone(), signs.clone(), series.freezes());
            let measured = tokio::task::spawn_blocking(move || measure(&directory, &log, &signs, freezes)).await;
            let measured = measured.map_err(io::Error::other).and_then(|measured| measured);
            let used = series.counted(measured, size(), can_freeze);
            if used.is_some() && sender.send(used).is_err() {
                return;
            }
            tokio::time::sleep(pause(begun.elapsed(), used, size(), series.broken > 0)).await;
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_found_counts_until_it_is_seen_to_be_gone() {
        let mut series = Series::default();
        let mut measured = |bytes, is_whole| series.counted(Ok(Measure { bytes, is_whole }), 1000, true);
        assert_eq!([measured(3, false), measured(9, true), measured(5, false)], [Some(3), Some(9), Some(9)]);
        assert_eq!([measured(12, false), measured(5, false), measured(2, true)], [Some(12), Some(9), Some(2)]);
        let failed = || Err(io::Error::other("no descriptor is left"));
        assert_eq!(series.counted(failed(), 1000, true), Some(2));
        assert_eq!(Series::default().counted(failed(), 1000, true), None);
    }

    #[test]
    fn a_volume_that_cannot_be_measured_though_nothing_moves_is_over_full() {
        let broken = || Ok(Measure { bytes: 5, is_whole: false });
        let mut series = Series::default();
        for _ in 0..PATIENCE {
            assert!(!series.freezes());
            assert_eq!(series.counted(broken(), 1000, true), Some(5));
        }
        assert!(series.freezes());
        let counted: Vec<_> = (0..PATIENCE).map(|_| series.counted(broken(), 1000, true)).collect();
        assert_eq!(counted, [Some(5), Some(5), Some(1126)]);
        assert_eq!(Room::Enough.next(1126, 1000), Room::Over);
        assert_eq!(series.counted(Ok(Measure { bytes: 7, is_whole: true }), 1000, true), Some(7));
        assert!(!series.freezes(), "one that is whole begins anew");
        let mut series = Series::default();
        for _ in 0..100 {
            assert_eq!(series.counted(broken(), 1000, false), Some(5), "it cannot be frozen");
        }
    }

    #[test]
    fn a_slow_measurement_does_not_put_off_the_next_one_for_minutes() {
        let after = |seconds| pause(Duration::from_secs(seconds), Some(1), 100, false);
        assert_eq!([after(0), after(2), after(20)], [SELDOM, Duration::from_secs(20), LONGEST_REST]);
        assert_eq!(pause(Duration::ZERO, Some(1), 100, true), OFTEN);
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
