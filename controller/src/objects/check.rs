//! Compares what is stored of a backup with what was written.

use std::io;

use trove_proto::backup::{MANIFEST_LIMIT, MANIFEST_NAME, Manifest, SEGMENT_LIMIT, Segment};

use super::CheckError;
use super::directory::Place;
use super::storage::{Opened, Storage};
use crate::ids::BackupId;

/// The objects of one run.
pub(super) struct Check {
    pub(super) storage: Storage,
    pub(super) backup: BackupId,
    pub(super) run: String,
}

fn damaged(object: &str, what: impl std::fmt::Display) -> CheckError {
    CheckError::Damaged(format!("object {object}: {what}"))
}

fn unreadable(object: &str, error: &io::Error) -> CheckError {
    CheckError::Unavailable(format!("object {object} cannot be read: {error}"))
}

impl Check {
    /// See [`super::Objects::check`].
    pub(super) async fn all(&self, manifest_sum: &str) -> Result<Manifest, CheckError> {
        let manifest = self.manifest(manifest_sum).await?;
        for segment in &manifest.segments {
            self.segment(segment).await?;
        }
        Ok(manifest)
    }

    async fn open(&self, name: &str) -> Result<Opened, CheckError> {
        let place = Place::new(self.backup, &self.run, name);
        let place = place.ok_or_else(|| damaged(name, format!("{:?} is no run's name", self.run)))?;
        let opened = self.storage.open(place).await.map_err(|error| unreadable(name, &error))?;
        opened.ok_or_else(|| damaged(name, "it is missing"))
    }

    async fn manifest(&self, sum: &str) -> Result<Manifest, CheckError> {
        let opened = self.open(MANIFEST_NAME).await?;
        if opened.bytes > MANIFEST_LIMIT {
            let bytes = opened.bytes;
            return Err(damaged(MANIFEST_NAME, format!("it has {bytes} bytes, more than a manifest can have")));
        }
        let text = opened.text().await.map_err(|error| unreadable(MANIFEST_NAME, &error))?;
        let found = blake3::hash(&text).to_hex();
        if found.as_str() != sum {
            return Err(damaged(MANIFEST_NAME, format!("its BLAKE3 sum is {found} instead of {sum}")));
        }
        Manifest::from_json(&text, &self.backup.to_string(), &self.run).map_err(|error| damaged(MANIFEST_NAME, error))
    }

    async fn segment(&self, segment: &Segment) -> Result<(), CheckError> {
        let Segment { name, bytes, blake3 } = segment;
        // Not every storage refuses what is larger than was granted.
        if *bytes > SEGMENT_LIMIT {
            return Err(damaged(name, format!("it has {bytes} bytes, more than an object can have")));
        }
        let opened = self.open(name).await?;
        if opened.bytes != *bytes {
            return Err(damaged(name, format!("it has {} bytes instead of {bytes}", opened.bytes)));
        }
        let found = opened.sum().await.map_err(|error| unreadable(name, &error))?.to_hex();
        if found.as_str() != blake3 {
            return Err(damaged(name, format!("its BLAKE3 sum is {found} instead of {blake3}")));
        }
        Ok(())
    }
}
