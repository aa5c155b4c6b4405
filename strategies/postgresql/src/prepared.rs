//! Transactions that were prepared when that was still allowed. No server starts with `max_prepared_transactions = 0` where
//! one is left, and one that holds a lock on the catalog of accounts lets nobody in, not even a server of one session: so
//! they are ended without asking a server.

use secrecy::SecretString;
use trove_strategy::{Directory, EngineError, HostError, Kind, Location, Owner, Site};

use crate::client::HOME;
use crate::config;
use crate::single_user::{self, field, postgres};

/// Where a server keeps each while it does not run (manual, 73.1).
fn kept() -> Location {
    Directory::Data.join("data/pg_twophase")
}

/// Rolls all of them back. `false`: the server had none when it last ran.
///
/// What they did counts for nothing once their files are gone, as that of a session that was cut off. What is still in the
/// log of a server that crashed is written to these files first.
pub(crate) async fn roll_back(site: &Site) -> Result<bool, EngineError> {
    let (most, mut is_whole) = control(site).await?;
    if most == 0 {
        return Ok(false);
    }
    if !is_whole {
        let mut recover = postgres(site).arg("--single").arg("-D").arg(site.data.to_string_lossy());
        recover.args.extend(config::owned(site));
        let recover = recover.arg("-c").arg(format!("max_prepared_transactions={most}")).arg("-c");
        match site.host.run(recover.arg("lock_timeout=1s").arg(HOME).stdin(SecretString::from("\n"))).await {
            // It may have been let in nowhere: it recovers before that.
            Ok(_) | Err(HostError::Failed { .. }) => is_whole = control(site).await?.1,
            Err(error) => return Err(error.into()),
        }
    }
    if !is_whole {
        return Err(EngineError::new(Kind::Fatal, "roll back prepared transactions: the server does not recover"));
    }
    site.host.remove(&kept()).await?;
    site.host.make_directory(&kept(), 0o700, Owner::Engine).await?;
    Ok(true)
}

/// How many the server that ran last allowed, and whether all that it knew is in its files.
async fn control(site: &Site) -> Result<(u32, bool), EngineError> {
    read(&single_user::control(site).await?)
}

fn read(said: &str) -> Result<(u32, bool), EngineError> {
    let most = field(said, "max_prepared_xacts setting:").and_then(|most| most.parse().ok());
    let unread = || EngineError::new(Kind::Fatal, "read the server's control file: it is not understood");
    Ok((most.ok_or_else(unread)?, field(said, "Database cluster state:") == Some("shut down")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_file_says_how_many_there_may_be() {
        let said = "Database cluster state:               shut down\nmax_prepared_xacts setting:           5\n";
        assert_eq!(read(said).unwrap(), (5, true));
        assert_eq!(read(&said.replace("shut down", "in production")).unwrap(), (5, false));
        assert!(read("").is_err());
    }
}
