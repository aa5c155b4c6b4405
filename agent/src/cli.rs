//! The command line of the agent.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use trove_strategy::{Account, RealHost, failpoint};

use crate::{Agent, config, guest, manifest, run};

/// What `--version` says.
const VERSION: &str = if failpoint::BUILT_IN {
    concat!(env!("CARGO_PKG_VERSION"), " with failpoints")
} else {
    env!("CARGO_PKG_VERSION")
};

#[derive(Parser)]
#[command(name = "trove-agent", version = VERSION, about = "The guest agent of trove-rs: keeps one database engine")]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Keep an engine. The compute driver starts this with the configuration file that it wrote.
    Run {
        /// The configuration file (TOML).
        #[arg(long)]
        config: PathBuf,
    },
    /// Print what a datastore is and can do, asked of the engine that is installed: it is started in a scratch
    /// directory, without a network listener, and removed.
    ///
    /// Example: trove-agent manifest NAME --bindir /usr/lib/…/bin
    Manifest {
        /// The datastore's name; `trove-agent datastores` lists them.
        datastore: String,
        /// The directory of the engine's programs; else the newest that is installed.
        #[arg(long)]
        bindir: Option<PathBuf>,
        /// The account that runs the engine; this one when absent. Needed as root.
        #[arg(long)]
        account: Option<String>,
    },
    /// Becomes a process of the engine's account, in its cgroups: how the agent starts each of them.
    #[command(hide = true)]
    Become {
        /// The engine's account.
        #[arg(long)]
        uid: u32,
        /// The directory of a cgroup; more than one may be given.
        #[arg(long)]
        cgroup: Vec<PathBuf>,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        program: Vec<OsString>,
    },
    /// List the datastores that are linked into this program, with what is installed of each, as JSON.
    Datastores,
}

/// Parses the command line, does it, and says what went wrong.
pub(crate) fn main(agent: Agent) -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(agent, arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done about a broken standard error.
            let _ = writeln!(std::io::stderr(), "trove-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(agent: Agent, verb: Verb) -> Result<()> {
    // A second installation in one process (tests) is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match verb {
        Verb::Run { config } => {
            let config = config::Config::read(&config)?;
            // By the first thread, before there is another.
            guest::enter(&config)?;
            logs();
            runtime()?.block_on(run::run(agent, config))
        }
        Verb::Manifest { datastore, bindir, account } => {
            let found = agent.datastore(&datastore).with_context(|| format!("there is no datastore {datastore}"))?;
            let own = Account::own().context("look up the account of this process")?;
            let engine = account.map_or_else(|| Ok(own.clone()), |name| Account::named(&name))?;
            let host = RealHost::new(engine, own);
            guest::gain_nothing()?;
            let manifest = runtime()?.block_on(manifest::make(found.as_ref(), &host, bindir.as_deref()))?;
            print(&serde_json::to_string_pretty(&manifest)?)
        }
        Verb::Become { uid, cgroup, program } => match guest::turn_into(&cgroup, uid, &program)? {},
        Verb::Datastores => {
            let own = Account::own().context("look up the account of this process")?;
            let host = RealHost::new(own.clone(), own);
            let list = runtime()?.block_on(manifest::installed(&agent, &host))?;
            print(&serde_json::to_string_pretty(&list)?)
        }
    }
}

fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("print")
}

fn logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // A line that cannot be written, on a full disk say, is lost. To say so on standard error as well would end whoever
    // wrote it by a panic.
    builder.log_internal_errors(false).init();
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    // Two threads: one engine is all there is to do, and each thread costs memory in every guest.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().context("start the runtime")
}
