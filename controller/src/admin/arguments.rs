//! The words of the command line, and what every command needs.

#![allow(clippy::disallowed_methods, reason = "files that the operator names")]

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use trove_strategy::failpoint;

use crate::directory::StateDirectory;
use crate::error::{Error, Result};

/// What `--version` says.
const VERSION: &str = if failpoint::BUILT_IN {
    concat!(env!("CARGO_PKG_VERSION"), " with failpoints")
} else {
    env!("CARGO_PKG_VERSION")
};

/// The service of trove-rs: a database-as-a-service that speaks OpenStack Trove's API.
#[derive(Parser)]
#[command(
    name = "trove-controller",
    version = VERSION,
    after_help = "First run:\n  trove-controller serve --state /var/lib/trove\n\
    then log in with the clouds file that it made:\n  OS_CLIENT_CONFIG_FILE=/var/lib/trove/clouds.yaml trovectl --os-cloud trove instance list"
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Where the state is.
#[derive(Args)]
pub struct Options {
    /// The state directory: the store, keys, hosts. Made when absent.
    #[arg(long, env = "TROVE_STATE")]
    pub state: PathBuf,
    /// The configuration file (TOML); `config show` prints a template.
    #[arg(long, env = "TROVE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// What the controller can be told.
#[derive(Subcommand)]
pub enum Verb {
    /// Run the service: API and identity, agents, operations. Prints one line when it serves; logs to standard error.
    ///
    /// SIGTERM ends it within 5 s; agents and engines go on, and the next start finds them.
    Serve(Options),
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigVerb),
    /// The database of the controller.
    #[command(subcommand)]
    Db(DbVerb),
    /// Datastores that can be ordered.
    #[command(subcommand)]
    Datastore(DatastoreVerb),
    /// The authorities that sign.
    #[command(subcommand)]
    Ca(CaVerb),
    /// Users of the built-in identity.
    #[command(subcommand)]
    User(UserVerb),
    /// Hosts of the process driver.
    #[command(subcommand)]
    Hosts(HostsVerb),
}

/// The configuration.
#[derive(Subcommand)]
pub enum ConfigVerb {
    /// Print the effective configuration with the meaning of every option: a template for a file of one's own.
    Show {
        /// The configuration file.
        #[arg(long, env = "TROVE_CONFIG")]
        config: Option<PathBuf>,
    },
}

/// The database.
#[derive(Subcommand)]
pub enum DbVerb {
    /// Bring the schema up to date (`serve` does so too). The controller must not run.
    Migrate(Options),
}

/// Datastores.
#[derive(Subcommand)]
pub enum DatastoreVerb {
    /// List versions with their state.
    List(Options),
    /// Register what is installed on this machine now (`serve` does so at its start).
    Register(Options),
    /// Activate a version, so that it can be ordered again.
    Activate {
        /// Where.
        #[command(flatten)]
        options: Options,
        /// The version's id, of `datastore list`.
        version: String,
    },
    /// Deactivate a version: it cannot be ordered any more, and its instances go on.
    Deactivate {
        /// Where.
        #[command(flatten)]
        options: Options,
        /// The version's id, of `datastore list`.
        version: String,
    },
}

/// Authorities.
#[derive(Subcommand)]
pub enum CaVerb {
    /// Print an authority's certificate (PEM): that of engines, which tenants trust, unless --agents.
    Show {
        /// Where.
        #[command(flatten)]
        options: Options,
        /// That of controllers and agents.
        #[arg(long)]
        agents: bool,
    },
}

/// Users.
#[derive(Subcommand)]
pub enum UserVerb {
    /// Read a password from standard input and print its hash, for `[[identity.users]]` of the configuration.
    Hash,
    /// List users with their projects and roles.
    List(Options),
}

/// Hosts.
#[derive(Subcommand)]
pub enum HostsVerb {
    /// Stop every agent with its engine in an orderly way, keeping the data. The next `serve` starts them again. The
    /// controller must not run.
    Stop(Options),
}

/// A state directory that a controller made: looking at one does not make it.
pub(super) fn existing(path: &Path) -> Result<StateDirectory> {
    if !path.join("trove.sqlite").exists() {
        return Err(Error::NotFound(format!("{} is no state directory of a controller.", path.display())));
    }
    StateDirectory::open(path)
}

pub(super) fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| Error::internal("print", error))
}
