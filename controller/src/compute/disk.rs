//! What drivers of one machine do on its disk alike: files in the directories of hosts, and the fence of a host.

#![allow(
    clippy::disallowed_methods,
    reason = "the directories of hosts and what lies right in them are this account's; no engine's account can write it"
)]

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use trove_strategy::beneath::{self, Dir};
use trove_strategy::process::if_there;

use super::ComputeError;

/// A short key of a directory, for names that must differ between directories.
pub(super) fn key(directory: &Path) -> String {
    hex::encode(&Sha256::digest(directory.as_os_str().as_encoded_bytes())[..4])
}

/// The boot id, which changes at each start of the machine.
pub(super) fn boot() -> std::io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Identifies a directory of hosts on this boot of this machine.
pub(super) fn place(directory: &Path) -> std::io::Result<String> {
    let facts = fs::metadata(directory)?;
    Ok(format!("{}/{}/{}", boot()?, facts.dev(), facts.ino()))
}

pub(super) fn failed(attempt: &str, path: &Path) -> impl FnOnce(std::io::Error) -> ComputeError {
    let text = format!("{attempt} {}", path.display());
    move |error| match error.kind() {
        // Transient, since an operator can make room and the operation is retried until then.
        ErrorKind::StorageFull => ComputeError::Transient(format!("{text}: No space left on device")),
        _ => ComputeError::Fatal(format!("{text}: {error}")),
    }
}

/// Replaces a file atomically and durably, mode 0600.
pub(super) fn write(path: &Path, contents: &[u8]) -> Result<(), ComputeError> {
    beneath::replace(path, contents).map_err(failed("write", path))
}

/// Removes a directory and all that an engine's account has put into it, such as symlinks and very deep trees. The
/// parent directory must be writable by this program only.
pub(super) fn remove(path: &Path) -> Result<(), ComputeError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ComputeError::Fatal(format!("remove {}: this is no directory of a host", path.display())));
    };
    match Dir::open(parent, &[]).and_then(|parent| parent.remove(Path::new(name))) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(ComputeError::Transient(format!("remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// The fence of a host: the greatest fence under which it was changed. It is stored in the host's directory and is deleted
/// with it.
pub(super) fn fence_of(directory: &Path) -> Result<u64, ComputeError> {
    let file = directory.join("fence");
    let Some(bytes) = if_there(fs::read(&file)).map_err(failed("read", &file))? else { return Ok(0) };
    let fence = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
    Ok(fence.unwrap_or_else(|| {
        // Not an error: a damaged file must not keep the host from being repaired or deleted.
        tracing::error!("{} is damaged; whoever changes the host next writes it anew", file.display());
        0
    }))
}

/// Refuses a fence that is smaller than the stored one.
pub(super) fn check_fence(directory: &Path, fence: u64) -> Result<(), ComputeError> {
    let seen = fence_of(directory)?;
    if fence < seen { Err(ComputeError::Fenced { fence, seen }) } else { Ok(()) }
}

/// Checks the fence and stores it durably, before anything is changed. The caller holds the lock of the host until its
/// change of the host's configuration is done, so that a controller that stalls in between keeps the others out. A host
/// without a directory has no fence.
pub(super) fn raise_fence(directory: &Path, fence: u64) -> Result<(), ComputeError> {
    check_fence(directory, fence)?;
    let is_there = directory.try_exists().map_err(failed("look for", directory))?;
    if !is_there || fence_of(directory)? == fence {
        return Ok(());
    }
    write(&directory.join("fence"), fence.to_string().as_bytes())
}
