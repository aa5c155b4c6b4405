//! The commands, a file a noun.

mod backups;
mod configurations;
mod connect;
mod databases;
mod datastores;
mod events;
mod instances;
mod operations;
mod parameters;
mod quotas;
mod recovery;
mod root;
mod schedules;
mod users;

use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::api::Api;
use crate::cloud;
use crate::error::Result;
use crate::output::{Format, Output};
use crate::wait::{Of, Wait, wait};

/// Databases as a service, from the terminal.
#[derive(Parser)]
#[command(
    name = "trovectl",
    version,
    after_help = "Examples:\n  trovectl instance create shop --database app --user app:app --wait\n  trovectl connect shop --user app \
        --database app\n  trovectl operations shop --follow\n\nWhich service: --os-cloud NAME of a clouds.yaml \
        (OS_CLIENT_CONFIG_FILE says where), or OS_AUTH_URL, OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME.\n\nExit codes: 0 \
        done, 1 failed, 2 wrong usage, 3 not found, 4 not done in time (it goes on)."
)]
pub(crate) struct Arguments {
    /// The cloud of clouds.yaml; else OS_CLOUD, else the only one there is.
    #[arg(long, global = true, value_name = "NAME")]
    os_cloud: Option<String>,
    /// How answers are printed.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
    /// Print ids or names alone, and no remarks.
    #[arg(short, long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Subcommand)]
enum Noun {
    /// Database instances: create, list, show, restart, delete …
    #[command(subcommand)]
    Instance(instances::Verb),
    /// Databases of an instance.
    #[command(subcommand, name = "db", visible_alias = "database")]
    Database(databases::Verb),
    /// Accounts of an instance and what they may enter.
    #[command(subcommand)]
    User(users::Verb),
    /// The all-powerful account of an instance.
    #[command(subcommand)]
    Root(root::Verb),
    /// What can be ordered: datastores and their versions.
    #[command(subcommand)]
    Datastore(datastores::Verb),
    /// Sizes that can be ordered.
    #[command(subcommand)]
    Flavor(datastores::FlavorVerb),
    /// What can be set in an engine, and how.
    #[command(subcommand)]
    Parameter(parameters::Verb),
    /// Configuration groups: values of parameters that instances are given.
    #[command(subcommand, visible_alias = "configuration")]
    Config(configurations::Verb),
    /// Backups of instances, of which new ones can be made.
    #[command(subcommand)]
    Backup(backups::Verb),
    /// What the project may have.
    Limits {
        /// How often it may ask, and what is left of that.
        #[arg(long)]
        rates: bool,
    },
    /// What a project has of what it may have; and for administrators, to change it.
    #[command(subcommand)]
    Quota(quotas::Verb),
    /// What the service does and did with an instance, step by step.
    Operations(operations::Arguments),
    /// What changes in the project, as it happens.
    Events(events::Arguments),
    /// Open the engine's own client program.
    Connect(connect::Arguments),
    /// Print a completion script. Example: trovectl completion bash > /etc/bash_completion.d/trovectl
    Completion {
        /// For this shell.
        shell: Shell,
    },
}

/// Waiting, where a command can.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct WaitOptions {
    /// Wait until it is done, showing each step.
    #[arg(long)]
    wait: bool,
    /// Wait at most this long, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

impl WaitOptions {
    /// The same where what comes next has to wait.
    pub(crate) fn and_wait(&self) -> Self {
        Self { wait: true, timeout: self.timeout }
    }
}

/// What commands work with.
pub(crate) struct Session {
    pub(crate) api: Api,
    pub(crate) output: Output,
}

impl Session {
    /// Waits for an operation where that was asked for; otherwise says that it goes on.
    pub(crate) async fn settle(
        &mut self,
        options: &WaitOptions,
        instance: &str,
        operation: Option<&str>,
        what: &str,
    ) -> Result<()> {
        self.settle_of(options, Of::Instance(instance), operation, what).await
    }

    /// The same for an operation of something else than an instance.
    pub(crate) async fn settle_of(
        &mut self,
        options: &WaitOptions,
        of: Of<'_>,
        operation: Option<&str>,
        what: &str,
    ) -> Result<()> {
        match operation {
            Some(operation) if options.wait => {
                let timeout = Duration::from_secs(options.timeout);
                wait(&mut self.api, self.output, &Wait { of, operation, what, timeout }).await
            }
            _ => {
                self.output.remark(&format!("Accepted: to {what}. `{}` shows how it goes.", of.command()));
                Ok(())
            }
        }
    }
}

/// Does what the command line says.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let output = Output { format: arguments.output, quiet: arguments.quiet };
    if let Noun::Completion { shell } = arguments.noun {
        clap_complete::generate(shell, &mut Arguments::command(), "trovectl", &mut std::io::stdout());
        return Ok(());
    }
    let cloud = cloud::find(arguments.os_cloud.as_deref(), &|name| std::env::var(name).ok())?;
    let mut session = Session { api: Api::open(cloud).await?, output };
    match arguments.noun {
        Noun::Instance(verb) => instances::run(&mut session, verb).await,
        Noun::Database(verb) => databases::run(&mut session, verb).await,
        Noun::User(verb) => users::run(&mut session, verb).await,
        Noun::Root(verb) => root::run(&mut session, verb).await,
        Noun::Datastore(verb) => datastores::run(&mut session, verb).await,
        Noun::Flavor(verb) => datastores::run_flavors(&mut session, verb).await,
        Noun::Parameter(verb) => parameters::run(&mut session, verb).await,
        Noun::Config(verb) => configurations::run(&mut session, verb).await,
        Noun::Backup(verb) => backups::run(&mut session, verb).await,
        Noun::Limits { rates } => datastores::limits(&mut session, rates).await,
        Noun::Quota(verb) => quotas::run(&mut session, verb).await,
        Noun::Operations(arguments) => operations::run(&mut session, &arguments).await,
        Noun::Events(arguments) => events::run(&mut session, &arguments).await,
        Noun::Connect(arguments) => connect::run(&mut session, &arguments).await,
        Noun::Completion { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
