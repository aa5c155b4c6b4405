//! A small file system, for tests with a full disk. Only root can mount one.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

/// A tmpfs that is unmounted when dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of this size (such as `200m`) on an existing directory.
    pub fn mount(path: &Path, size: &str) -> Result<Self> {
        let options = format!("size={size},mode=0755");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).status()?;
        ensure!(status.success(), "mount a small file system");
        Ok(Self(path.to_owned()))
    }

    /// Fills it completely with one file, which may exist already.
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
        // After a failure the mount is left; nothing else can be done here.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
