//! How much of the volume is in use.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes that the files below the directory take on the disk. Blocks; files that vanish meanwhile are not counted.
fn used_bytes(directory: &Path) -> u64 {
    let mut open: Vec<PathBuf> = vec![directory.to_owned()];
    let mut sum = 0;
    while let Some(next) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else { continue };
        for entry in entries.flatten() {
            let Ok(facts) = entry.metadata() else { continue };
            if facts.is_dir() {
                open.push(entry.path());
            }
            sum += facts.blocks() * 512;
        }
    }
    sum
}

/// The same off the threads that serve; for a volume that is a file system of its own, the file system is asked.
pub async fn measure(directory: &Path) -> u64 {
    let directory = directory.to_owned();
    let measured = tokio::task::spawn_blocking(move || {
        let device = |path: &Path| std::fs::metadata(path).map(|facts| facts.dev()).ok();
        let own = directory.parent().is_some_and(|parent| device(parent) != device(&directory));
        match nix::sys::statvfs::statvfs(&directory) {
            Ok(facts) if own => (facts.blocks() - facts.blocks_free()) * facts.fragment_size(),
            _ => used_bytes(&directory),
        }
    });
    measured.await.unwrap_or_default()
}
