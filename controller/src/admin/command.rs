//! Runs the commands of the controller.

use secrecy::SecretString;

use super::arguments::{CaVerb, ConfigVerb, DbVerb, HostsVerb, UserVerb, Verb, existing, print};
use super::{datastores, hosts};
use crate::authority::Authorities;
use crate::config::{Config, documented};
use crate::directory::StateDirectory;
use crate::error::{Error, Result};
use crate::identity;

/// Runs any command except `serve`.
pub async fn dispatch(verb: Verb) -> Result<()> {
    match verb {
        Verb::Serve(options) => crate::serve::run(&options.state, Config::load(options.config.as_deref())?).await,
        Verb::Config(ConfigVerb::Show { config }) => print(&documented::show(&Config::load(config.as_deref())?)?),
        Verb::Db(DbVerb::Migrate(options)) => {
            let directory = StateDirectory::open(&options.state)?;
            let _lock = directory.lock()?;
            directory.store(&Config::load(options.config.as_deref())?).await?;
            print("The schema is up to date.\n")
        }
        Verb::Datastore(verb) => datastores::dispatch(verb).await,
        Verb::Ca(CaVerb::Show { options, agents }) => {
            let authorities =
                Authorities::load(&existing(&options.state)?.store(&Config::load(options.config.as_deref())?).await?)
                    .await?;
            print(if agents { authorities.agents_pem() } else { authorities.engines_pem() })
        }
        Verb::User(UserVerb::Hash) => {
            let mut password = String::new();
            let read = std::io::stdin().read_line(&mut password);
            read.map_err(|error| Error::internal("read the password from standard input", error))?;
            let password = SecretString::from(password.trim_end_matches('\n').to_owned());
            print(&(identity::hash_password(&password)? + "\n"))
        }
        Verb::User(UserVerb::List(options)) => {
            let users =
                existing(&options.state)?.store(&Config::load(options.config.as_deref())?).await?.list_users().await?;
            let line = |user: &crate::store::identity::User| {
                format!("{:<20} {:<20} {}\n", user.name, user.project_name, user.roles.join(","))
            };
            let lines: String = users.iter().map(line).collect();
            print(&format!("{:<20} {:<20} ROLES\n{lines}", "USER", "PROJECT"))
        }
        Verb::Hosts(HostsVerb::Stop(options)) => hosts::stop(&options).await,
    }
}
