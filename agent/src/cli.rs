//! The command line of the agent.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use trove_strategy::{Account, RealHost, failpoint};

use crate::{Agent, config, first_boot, guest, init, manifest, run};

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
    /// Run the agent of an instance. The compute driver starts this with the configuration file that it wrote.
    Run {
        /// The configuration file (TOML).
        #[arg(long)]
        config: PathBuf,
    },
    /// Run the agent as the first process of a container: it is started again when it ends, and the engine lives on.
    /// SIGTERM stops the engine and ends.
    Init {
        /// The configuration file (TOML).
        #[arg(long)]
        config: PathBuf,
    },
    /// Print the manifest of a datastore as JSON. To make it, the installed engine is started in a scratch directory,
    /// without a network listener, and removed.
    ///
    /// Example: trove-agent manifest NAME --bindir /usr/lib/…/bin
    Manifest {
        /// The datastore's name; `trove-agent datastores` lists them.
        datastore: String,
        /// The directory of the engine's programs; by default that of the newest installed version.
        #[arg(long)]
        bindir: Option<PathBuf>,
        /// The account that runs the engine; by default the present one. Required when run as root.
        #[arg(long)]
        account: Option<String>,
    },
    /// Take the enrolment data that was left for this guest, on its config drive or in its user-data, and write the files
    /// that `run` reads. A guest image runs this at every boot; once the data was taken it changes nothing.
    FirstBoot {
        /// The document, or a directory that is laid out as a config drive; nothing else is looked at.
        #[arg(long)]
        from: Option<PathBuf>,
        /// The directory of the agent's files.
        #[arg(long, default_value_os_t = first_boot::directory())]
        into: PathBuf,
    },
    /// Execute a program with the engine's account, in a Landlock domain and in the engine's cgroups. The agent starts
    /// each of them this way.
    #[command(hide = true)]
    Become {
        /// User and group id of the engine's account.
        #[arg(long)]
        uid: u32,
        /// The directory of a cgroup; more than one may be given.
        #[arg(long)]
        cgroup: Vec<PathBuf>,
        /// A TCP port that the program may listen on; more than one may be given.
        #[arg(long)]
        port: Vec<u16>,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        program: Vec<OsString>,
    },
    /// List the datastores of this program and the installed versions of each, as JSON.
    Datastores,
}

/// Parses and runs the command line; prints an error to standard error.
pub(crate) fn main(agent: Agent) -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(agent, arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is broken, nothing is left to report to.
            let _ = writeln!(std::io::stderr(), "trove-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(agent: Agent, verb: Verb) -> Result<()> {
    // In tests several agents share a process, and only the first call succeeds.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match verb {
        Verb::Run { config } => {
            let config = config::Config::read(&config)?;
            // Must run while the process has one thread.
            guest::enter(&config)?;
            logs();
            runtime()?.block_on(run::run(agent, config))
        }
        Verb::Init { config } => {
            logs();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.context("start the runtime")?.block_on(init::run(&config))
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
        Verb::FirstBoot { from, into } => {
            print(&runtime()?.block_on(first_boot::run(&first_boot::Places::new(from), &into))?)
        }
        Verb::Become { uid, cgroup, port, program } => match guest::turn_into(&cgroup, &port, uid, &program)? {},
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
    // A log line that cannot be written, for example on a full disk, is lost. With `log_internal_errors` the failed
    // write of the error message would panic in the thread that logs.
    builder.log_internal_errors(false).init();
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    // Two threads are enough for one engine, and each thread costs memory in every guest.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().context("start the runtime")
}
