//! Arguments of the command line.

#![allow(clippy::disallowed_methods, reason = "files that the operator names")]

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use trove_strategy::failpoint;

use crate::directory::StateDirectory;
use crate::error::{Error, Result};

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
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every command that uses the state directory.
#[derive(Args)]
pub struct Options {
    /// The state directory: the store, keys, hosts. Made when absent.
    #[arg(long, env = "TROVE_STATE")]
    pub state: PathBuf,
    /// The configuration file (TOML); `config show` prints a template.
    #[arg(long, env = "TROVE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// The commands.
#[derive(Subcommand)]
pub enum Verb {
    /// Run the service: API and identity, agents, operations. Prints one line when it serves; logs to standard error.
    ///
    /// SIGTERM ends it within 5 s. Agents and engines keep running, and the next start finds them.
    Serve(Options),
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigVerb),
    /// The database of the controller.
    #[command(subcommand)]
    Db(DbVerb),
    /// Datastores and their versions.
    #[command(subcommand)]
    Datastore(DatastoreVerb),
    /// Certificate authorities.
    #[command(subcommand)]
    Ca(CaVerb),
    /// Users of the built-in identity.
    #[command(subcommand)]
    User(UserVerb),
    /// Hosts of the compute driver.
    #[command(subcommand)]
    Hosts(HostsVerb),
}

#[derive(Subcommand)]
pub enum ConfigVerb {
    /// Print the effective configuration with the meaning of every option: a template for a configuration file.
    Show {
        /// The configuration file.
        #[arg(long, env = "TROVE_CONFIG")]
        config: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
pub enum DbVerb {
    /// Bring the schema up to date (`serve` does so too). The controller must not be running.
    Migrate(Options),
}

#[derive(Subcommand)]
pub enum DatastoreVerb {
    /// List versions with their state.
    List(Options),
    /// Register what is installed on this machine now (`serve` does so at its start), an image, or the engine in a
    /// directory.
    ///
    /// Example: trove-controller datastore register --state DIR images/NAME.json
    #[command(group = clap::ArgGroup::new("what").args(["image", "bindir"]))]
    Register {
        #[command(flatten)]
        options: Options,
        /// The description of an image, which was made with it. Prints the version's id.
        image: Option<PathBuf>,
        /// The directory of the programs of an engine where the agent does not look for it by itself. Prints the version's id.
        #[arg(long, requires = "datastore")]
        bindir: Option<PathBuf>,
        /// The datastore of that engine.
        #[arg(long, requires = "bindir")]
        datastore: Option<String>,
        /// The name of the version; by default the engine's major version.
        #[arg(long, requires = "what")]
        name: Option<String>,
    },
    /// Activate a version, so that instances of it can be created again.
    Activate {
        #[command(flatten)]
        options: Options,
        /// The version's id, of `datastore list`.
        version: String,
    },
    /// Deactivate a version: no instances of it can be created any more; those that exist keep running.
    Deactivate {
        #[command(flatten)]
        options: Options,
        /// The version's id, of `datastore list`.
        version: String,
    },
}

#[derive(Subcommand)]
pub enum CaVerb {
    /// Print the certificate (PEM) of the authority of engines, which tenants trust; with --agents that of agents.
    Show {
        #[command(flatten)]
        options: Options,
        /// Print the certificate of the authority of controllers and agents.
        #[arg(long)]
        agents: bool,
    },
}

#[derive(Subcommand)]
pub enum UserVerb {
    /// Read a password from standard input and print its hash, for `[[identity.users]]` of the configuration.
    Hash,
    /// List users with their projects and roles.
    List(Options),
}

#[derive(Subcommand)]
pub enum HostsVerb {
    /// Stop every agent and its engine gracefully; data is kept. The next `serve` starts them again. The controller must
    /// not be running.
    Stop(Options),
}

/// Opens an existing state directory; does not make one.
pub(super) fn existing(path: &Path) -> Result<StateDirectory> {
    // Every service makes this file, wherever its store is.
    if !path.join("lock").exists() {
        return Err(Error::NotFound(format!("{} is no state directory of a controller.", path.display())));
    }
    StateDirectory::open(path)
}

pub(super) fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| Error::internal("print", error))
}
