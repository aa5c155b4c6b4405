//! What this process joins before it starts anything: cgroups, and a mount namespace of its own where the engine's
//! account could not reach its files otherwise.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::config::Config;

/// Joins. Must be called while this process has one thread.
///
/// # Errors
/// The system refused; the message says what.
pub fn enter(mut config: Config) -> Result<Config> {
    for cgroup in &config.cgroups {
        let file = cgroup.join("cgroup.procs");
        let joined = std::fs::File::options().write(true).open(&file).and_then(|mut file| file.write_all(b"0"));
        joined.with_context(|| format!("join the cgroup {}", cgroup.display()))?;
    }
    let Some(mountpoint) = config.private_mount.clone() else { return Ok(config) };
    let source = config.volume_dir.parent().context("the volume has no directory around it")?.to_owned();
    std::fs::create_dir_all(&mountpoint).with_context(|| format!("make {}", mountpoint.display()))?;
    unshare(CloneFlags::CLONE_NEWNS).context("enter a mount namespace")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
    mount(Some(&source), &mountpoint, none, MsFlags::MS_BIND, none)
        .with_context(|| format!("mount {} on {}", source.display(), mountpoint.display()))?;
    for path in config.paths() {
        let moved: Option<PathBuf> = path.strip_prefix(&source).ok().map(|rest| mountpoint.join(rest));
        if let Some(moved) = moved {
            *path = moved;
        }
    }
    Ok(config)
}
