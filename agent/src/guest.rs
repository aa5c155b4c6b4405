//! What the agent does before it starts any process: it joins its cgroups, leaves root's keyring, and sets
//! `no_new_privs`. And how a child process gets the engine's account, Landlock domain and cgroups.

#![allow(clippy::disallowed_methods, reason = "control groups")]

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::errno::Errno;
use trove_strategy::{Confinement, calls, domain};

use crate::config::Config;

/// Joins the agent's cgroups and gives up privileges. Must be called while this process has one thread.
pub fn enter(config: &Config) -> Result<()> {
    // A host made by an older compute driver does not show these cgroups in its mount namespace. There the driver has
    // already put this process into them.
    config.cgroups.iter().filter(|cgroup| cgroup.exists()).try_for_each(|cgroup| join(cgroup))?;
    gain_nothing()
}

/// Sets `no_new_privs`, so that neither this process nor its children (the engine, a tenant's shell) gain privileges
/// from a setuid program; and leaves root's session keyring. Must be called while this process has one thread.
pub fn gain_nothing() -> Result<()> {
    leave_keys()?;
    nix::sys::prctl::set_no_new_privs().context("give up setuid programs")
}

/// Takes a new, empty session keyring (keyrings(7)). A process inherits the keyring of its parent whatever its account,
/// and may read the keys in it: those of root's session, and those that other tenants leave there.
fn leave_keys() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        // Without root the agent and its engine have the same account, hence the same keys; and an account may have
        // only a few keyrings.
        return Ok(());
    }
    match keyutils_raw::keyctl_join_session_keyring(None).map_err(|error| Errno::from_raw(error.0)) {
        // The kernel has no keyrings, or the container forbids them.
        Ok(_) | Err(Errno::ENOSYS | Errno::EPERM | Errno::EOPNOTSUPP) => Ok(()),
        Err(error) => Err(error).context("take an empty session keyring"),
    }
}

fn join(cgroup: &Path) -> Result<()> {
    let file = cgroup.join("cgroup.procs");
    let joined = std::fs::File::options().write(true).open(&file).and_then(|mut file| file.write_all(b"0"));
    joined.with_context(|| format!("join the cgroup {}", cgroup.display()))
}

/// How processes get the engine's account, domain and cgroups; `None` if the account is the agent's. They may listen on
/// `ports`.
pub fn confinement(config: &Config, ports: impl IntoIterator<Item = u16>) -> Option<Confinement> {
    let uid = config.engine_uid?;
    let mut args = vec!["become".to_owned(), "--uid".to_owned(), uid.to_string()];
    for cgroup in &config.engine_cgroups {
        args.extend(["--cgroup".to_owned(), cgroup.to_string_lossy().into_owned()]);
    }
    args.extend(ports.into_iter().flat_map(|port| ["--port".to_owned(), port.to_string()]));
    args.push("--".to_owned());
    // /proc/self/exe is this program even after its file was replaced.
    Some(Confinement { groups: config.engine_cgroups.clone(), program: "/proc/self/exe".into(), args })
}

/// Joins `cgroups`, enters a domain in which `ports` may be bound and some system calls are refused, takes the account
/// `uid`, and executes `words`: a program and its arguments. Must be called while this process has one thread.
pub fn turn_into(cgroups: &[PathBuf], ports: &[u16], uid: u32, words: &[OsString]) -> Result<Infallible> {
    cgroups.iter().try_for_each(|cgroup| join(cgroup))?;
    leave_keys()?;
    domain::enter(ports)?;
    calls::refuse()?;
    let (program, args) = words.split_first().context("there is no program to become")?;
    let error = Command::new(program).args(args).uid(uid).gid(uid).exec();
    Err(error).with_context(|| format!("start {}", Path::new(program).display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session keyring belongs to one thread, so this test disturbs no other.
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
