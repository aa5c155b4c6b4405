//! Named points at which a test makes the process die or a step fail. Compiled to nothing without the feature
//! `failpoints`.
//!
//! `TROVE_FAILPOINTS` holds `name=kill`, `name=stop` or `name=fail` entries, separated by commas: the process
//! is killed, or stops until it is told to go on (SIGCONT), or the step fails. With `TROVE_FAILPOINTS_ONCE` set to
//! a directory each of them fires once, however often the process is started again: the first to make the file of that
//! name there fires.

#![allow(clippy::disallowed_methods, reason = "a directory that a test names")]

/// Whether they are built in, which `--version` of a program says. Never of one that is shipped.
pub const BUILT_IN: bool = cfg!(feature = "failpoints");

/// A failure that a test asked for.
#[derive(Debug, thiserror::Error)]
#[error("failpoint {0}")]
pub struct Injected(pub String);

/// Passes the point `name`, unless a test asked for death or failure there.
///
/// # Errors
/// [`Injected`] when the entry says `fail`. With `kill` it does not return.
#[cfg(feature = "failpoints")]
pub fn pass(name: &str) -> Result<(), Injected> {
    let Ok(entries) = std::env::var("TROVE_FAILPOINTS") else { return Ok(()) };
    let Some(action) = entries.split(',').find_map(|entry| {
        let (point, action) = entry.trim().split_once('=')?;
        (point == name).then(|| action.to_owned())
    }) else {
        return Ok(());
    };
    if let Ok(directory) = std::env::var("TROVE_FAILPOINTS_ONCE") {
        let marker = std::path::Path::new(&directory).join(name.replace('/', "_"));
        if std::fs::File::create_new(marker).is_err() {
            return Ok(());
        }
    }
    if action == "kill" {
        // SIGKILL cannot be caught: the process is gone before the next instruction that matters.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
        loop {
            std::thread::park();
        }
    }
    if action == "stop" {
        // Every thread stops, as with a machine that is suspended; whoever continues it finds it behind this point. The
        // signal is this thread's own: one to the process may be taken by another thread while this one goes on.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
        return Ok(());
    }
    Err(Injected(name.to_owned()))
}

/// Passes the point.
///
/// # Errors
/// None: the feature is off.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn pass(_name: &str) -> Result<(), Injected> {
    Ok(())
}
