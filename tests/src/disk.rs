//! A small file system, for what happens when it is full. Only root may mount one.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

/// A file system in memory that goes with the test.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of this size (`200m`) on a directory that is there.
    pub fn mount(path: &Path, size: &str) -> Result<Self> {
        let options = format!("size={size},mode=0755");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).status()?;
        ensure!(status.success(), "mount a small file system");
        Ok(Self(path.to_owned()))
    }

    /// Fills it to the last block with one file, which may be there already.
    pub fn fill(&self) -> Result<PathBuf> {
        let path = self.0.join("filler");
        let mut file = File::options().create(true).append(true).open(&path)?;
        for block in [vec![0; 1 << 20], vec![0; 4096]] {
            while file.write_all(&block).is_ok() {}
        }
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A mount that is left is seen by the next look at the machine; there is nothing else to do with it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
