//! Benchmark of the service, with release programs. Each figure is printed with how it was measured and with its
//! target, if it has one. `make bench` builds and runs it; docs/benchmarks.md explains the results.
//!
//! Targets are set for counts and CPU time. Wall-clock times are printed, too, but depend more on the machine. The exit
//! status is not zero if a target is missed or a request failed.

mod agent;
mod create;
mod fleet;
mod guests;
mod load;
mod process;
mod requests;
mod resting;
mod seed;
mod service;
mod table;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use table::Table;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            table::say(&format!("the measurement failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    // Fails only if one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    refuse_failpoints()?;
    process::raise_descriptors()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let only = std::env::args().nth(1).filter(|word| !word.starts_with('-'));
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let mut table = Table::default();
    runtime.block_on(async {
        for database in service::Kind::ALL {
            if wanted("requests") {
                requests::measure(&mut table, database).await.with_context(|| format!("requests on {database}"))?;
            }
        }
        if wanted("create") {
            create::measure(&mut table).await.context("creates")?;
        }
        if wanted("fleet") {
            fleet::measure(&mut table).await.context("the fleet")?;
        }
        anyhow::Ok(())
    })?;
    table.print();
    Ok(table.is_good())
}

/// Refuses programs built with failpoints, since those are not shipped.
fn refuse_failpoints() -> Result<()> {
    for name in ["trove-controller", "trove-agent"] {
        let program = trove_tests::program(name)?;
        let said = std::process::Command::new(&program).arg("--version").output()?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        ensure!(!said.contains("failpoints"), "{} has failpoints built in: {}", program.display(), said.trim());
        ensure!(said.starts_with(name), "{} --version says {said:?}", program.display());
    }
    Ok(())
}
