//! The program `trove-controller`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use trove_controller::admin::{Arguments, Verb, dispatch};
use trove_controller::error::chain;

/// glibc's allocator does not return memory after a load; the controller would keep five times as much
/// (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is broken, nothing is left to report to.
            let _ = writeln!(std::io::stderr(), "trove-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> Result<()> {
    if matches!(arguments.verb, Verb::Serve(_)) {
        close_inherited().context("close what was open at the start")?;
    }
    // Fails only if one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    raise_descriptors().context("raise the limit of open files")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let done = runtime.block_on(dispatch(arguments.verb));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done.map_err(|error| anyhow::anyhow!(chain(&error)))
}

/// Closes what whoever started the service had open, other than standard input, output and error: agents, engines and tenants'
/// shells would inherit it. Called before anything is opened.
#[allow(clippy::disallowed_methods, reason = "/proc, which nobody but the kernel writes")]
fn close_inherited() -> std::io::Result<()> {
    let names = std::fs::read_dir("/proc/self/fd")?.map(|entry| Ok(entry?.file_name()));
    let names = names.collect::<std::io::Result<Vec<_>>>()?;
    for descriptor in names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok()).filter(|number| *number > 2) {
        // Among them is the directory that was listed, which is closed already.
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}

/// Raises the limit of open files to the hard limit, since each agent needs a descriptor.
fn raise_descriptors() -> nix::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}
