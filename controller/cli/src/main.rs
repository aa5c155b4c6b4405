//! `trovectl`: the command line of trove-rs. A client of the public API alone.

#![allow(clippy::disallowed_methods, reason = "files of whoever runs the program, with his own rights")]

mod api;
mod auth;
mod cloud;
mod commands;
mod error;
mod output;
mod progress;
mod secret;
mod wait;

use std::process::ExitCode;

use clap::Parser;

use commands::Arguments;
use error::Failure;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The only failure is that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(arguments)),
        Err(error) => Err(Failure::failed(format!("start: {error}"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure @ Failure::Closed) => failure.exit_code(),
        Err(failure) => {
            output::complain(&failure.to_string());
            failure.exit_code()
        }
    }
}
