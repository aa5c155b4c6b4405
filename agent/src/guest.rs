//! What this process does before it starts anything: joins its cgroups, leaves root's keys, and gives up what a program could
//! gain by being executed. And how a process gets from the agent's place to the engine's.

#![allow(clippy::disallowed_methods, reason = "control groups")]

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::errno::Errno;
use trove_strategy::Confinement;

use crate::config::Config;

/// Joins. Must be called while this process has one thread.
///
/// # Errors
/// The system refused; the message says what.
pub fn enter(config: &Config) -> Result<()> {
    // In the mount namespace of a host that was made before its agent had groups of its own these are not to be seen: the driver
    // has put this process into them.
    config.cgroups.iter().filter(|cgroup| cgroup.exists()).try_for_each(|cgroup| join(cgroup))?;
    gain_nothing()
}

/// From now on no program of the machine makes this process, or any that it starts, more than it is: the engine and its tenants
/// neither. They have none of root's keys either. Must be called while this process has one thread.
///
/// # Errors
/// The system refused.
pub fn gain_nothing() -> Result<()> {
    leave_keys()?;
    nix::sys::prctl::set_no_new_privs().context("give up setuid programs")
}

/// Takes an empty session keyring (keyrings(7)). Every process has the one of its parent, whatever its account, and may read
/// the keys in it: those of root's session, and those that other tenants leave there.
fn leave_keys() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        // This account shares its keys with its engines anyhow, and may have only a few keyrings.
        return Ok(());
    }
    match keyutils_raw::keyctl_join_session_keyring(None).map_err(|error| Errno::from_raw(error.0)) {
        // A kernel without keys, or a container whose processes may not use them.
        Ok(_) | Err(Errno::ENOSYS | Errno::EPERM | Errno::EOPNOTSUPP) => Ok(()),
        Err(error) => Err(error).context("take an empty session keyring"),
    }
}

fn join(cgroup: &Path) -> Result<()> {
    let file = cgroup.join("cgroup.procs");
    let joined = std::fs::File::options().write(true).open(&file).and_then(|mut file| file.write_all(b"0"));
    joined.with_context(|| format!("join the cgroup {}", cgroup.display()))
}

/// Where this guest's processes of the engine's account are; `None` where they are where the agent is.
pub fn confinement(config: &Config) -> Option<Confinement> {
    let uid = config.engine_uid?;
    if config.engine_cgroups.is_empty() {
        return None;
    }
    let mut args = vec!["become".to_owned(), "--uid".to_owned(), uid.to_string()];
    for cgroup in &config.engine_cgroups {
        args.extend(["--cgroup".to_owned(), cgroup.to_string_lossy().into_owned()]);
    }
    args.push("--".to_owned());
    // This program, also when its file has been replaced meanwhile.
    Some(Confinement { groups: config.engine_cgroups.clone(), program: "/proc/self/exe".into(), args })
}

/// Goes into these cgroups, and becomes this account and this program.
///
/// # Errors
/// The system refused; the message says what.
pub fn turn_into(cgroups: &[PathBuf], uid: u32, words: &[OsString]) -> Result<Infallible> {
    cgroups.iter().try_for_each(|cgroup| join(cgroup))?;
    leave_keys()?;
    let (program, args) = words.split_first().context("there is no program to become")?;
    let error = Command::new(program).args(args).uid(uid).gid(uid).exec();
    Err(error).with_context(|| format!("start {}", Path::new(program).display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread has a session keyring of its own.
    #[test]
    fn keys_of_the_session_before_cannot_be_read() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let Ok(before) = keyutils_raw::keyctl_join_session_keyring(None) else { return };
        let key = keyutils_raw::add_key("user", "trove-test", b"a secret", before).unwrap();
        assert_eq!(keyutils_raw::keyctl_read(key, None).unwrap(), 8);
        leave_keys().unwrap();
        keyutils_raw::keyctl_read(key, None).unwrap_err();
        let own = keyutils_raw::keyctl_get_keyring_id(keyutils_raw::KEY_SPEC_SESSION_KEYRING, false).unwrap();
        assert_ne!(own, before);
        assert_eq!(keyutils_raw::keyctl_read(own, None).unwrap(), 0);
    }
}
