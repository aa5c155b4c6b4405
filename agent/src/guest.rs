//! What this process does before it starts anything: joins its cgroups, and gives up what a program could gain by being
//! executed.

#![allow(clippy::disallowed_methods, reason = "control groups")]

use std::io::Write;

use anyhow::{Context, Result};

use crate::config::Config;

/// Joins. Must be called while this process has one thread.
///
/// # Errors
/// The system refused; the message says what.
pub fn enter(config: &Config) -> Result<()> {
    for cgroup in &config.cgroups {
        let file = cgroup.join("cgroup.procs");
        let joined = std::fs::File::options().write(true).open(&file).and_then(|mut file| file.write_all(b"0"));
        joined.with_context(|| format!("join the cgroup {}", cgroup.display()))?;
    }
    // For the engine and its tenants too: no program of the machine makes anybody more than he is.
    nix::sys::prctl::set_no_new_privs().context("give up setuid programs")
}
