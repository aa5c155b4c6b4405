//! Compares what is stored of a backup with what was written.

use std::io::{self, Read as _};

use tokio_util::sync::CancellationToken;
use trove_proto::backup::{MANIFEST_LIMIT, MANIFEST_NAME, Manifest, Segment};

use super::CheckError;
use super::directory::{Directory, Place};
use crate::ids::BackupId;

/// See [`super::Objects::check`]. It stops soon after its caller has stopped waiting.
pub(super) async fn run(
    directory: Directory,
    backup: BackupId,
    run: String,
    manifest_sum: String,
) -> Result<Manifest, CheckError> {
    let given_up = CancellationToken::new();
    let _guard = given_up.clone().drop_guard();
    let check = Check { directory, backup, run, given_up };
    match tokio::task::spawn_blocking(move || check.all(&manifest_sum)).await {
        Ok(checked) => checked,
        Err(error) => Err(CheckError::Unavailable(format!("the check of backup {backup} ended: {error}"))),
    }
}

struct Check {
    directory: Directory,
    backup: BackupId,
    run: String,
    given_up: CancellationToken,
}

fn damaged(object: &str, what: impl std::fmt::Display) -> CheckError {
    CheckError::Damaged(format!("object {object}: {what}"))
}

fn unreadable(object: &str, error: &io::Error) -> CheckError {
    CheckError::Unavailable(format!("object {object} cannot be read: {error}"))
}

impl Check {
    fn all(&self, manifest_sum: &str) -> Result<Manifest, CheckError> {
        let manifest = self.manifest(manifest_sum)?;
        for segment in &manifest.segments {
            if self.given_up.is_cancelled() {
                return Err(CheckError::Unavailable("the check was given up".to_owned()));
            }
            self.segment(segment)?;
        }
        Ok(manifest)
    }

    /// Opens an object, and tells its size.
    fn open(&self, name: &str) -> Result<(std::fs::File, u64), CheckError> {
        let place = Place::new(self.backup, &self.run, name);
        let place = place.ok_or_else(|| damaged(name, format!("{:?} is no run's name", self.run)))?;
        let opened = self.directory.read(&place).map_err(|error| unreadable(name, &error))?;
        opened.ok_or_else(|| damaged(name, "it is missing"))
    }

    fn manifest(&self, sum: &str) -> Result<Manifest, CheckError> {
        let (file, bytes) = self.open(MANIFEST_NAME)?;
        if bytes > MANIFEST_LIMIT {
            return Err(damaged(MANIFEST_NAME, format!("it has {bytes} bytes, more than a manifest can have")));
        }
        let mut text = Vec::new();
        file.take(MANIFEST_LIMIT).read_to_end(&mut text).map_err(|error| unreadable(MANIFEST_NAME, &error))?;
        let found = blake3::hash(&text).to_hex();
        if found.as_str() != sum {
            return Err(damaged(MANIFEST_NAME, format!("its BLAKE3 sum is {found} instead of {sum}")));
        }
        Manifest::from_json(&text, &self.backup.to_string(), &self.run).map_err(|error| damaged(MANIFEST_NAME, error))
    }

    fn segment(&self, segment: &Segment) -> Result<(), CheckError> {
        let Segment { name, bytes, blake3 } = segment;
        let (file, found) = self.open(name)?;
        if found != *bytes {
            return Err(damaged(name, format!("it has {found} bytes instead of {bytes}")));
        }
        let mut hasher = blake3::Hasher::new();
        // It reads by pieces of 64 KiB.
        hasher.update_reader(file.take(*bytes)).map_err(|error| unreadable(name, &error))?;
        let found = hasher.finalize().to_hex();
        if found.as_str() != blake3 {
            return Err(damaged(name, format!("its BLAKE3 sum is {found} instead of {blake3}")));
        }
        Ok(())
    }
}
