//! The agent's account put right by one who may do everything, where the agent is shut out: by a server that listens nowhere.

use std::time::Duration;

use trove_strategy::{Command, Directory, EngineError, HostError, Site};

use crate::install::{argument, bootstrap, is_in_order, made_for, restored, text, with_modes, write_statements};
use crate::{Flavour, config, engine, names};

/// Crash recovery included.
const LIMIT: Duration = Duration::from_secs(600);

/// What says that there is nothing to mend.
const IN_ORDER: &str = "the account of the agent is in order";

/// Restores the agent's account. What one with all rights did to other tables of the server's is not found.
pub(crate) async fn repair(flavour: Flavour, site: &Site) -> Result<Option<String>, EngineError> {
    let was_in_order = if flavour.is_mariadb() { mariadb(flavour, site).await? } else { mysql(flavour, site).await? };
    Ok((!was_in_order).then(|| format!("restored: the account {:?}", names::admin(flavour, site))))
}

/// Whether it was in order.
async fn mariadb(flavour: Flavour, site: &Site) -> Result<bool, EngineError> {
    let statements = [
        format!(
            "if exists (select * from mysql.global_priv where {}) then signal sqlstate '45000' set message_text = \
             '{IN_ORDER}'; end if;",
            is_in_order(flavour, site)
        ),
        restored(flavour, site),
    ];
    match bootstrap(flavour, site, &Directory::Data.join("data"), &statements, LIMIT).await {
        Ok(()) => Ok(false),
        Err(HostError::Failed { stderr, .. }) if stderr.contains(IN_ORDER) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// The same. MySQL's server has no mode for this: it is started with its file, runs the statements and ends by the one before
/// the last, which comes to be only where none before it has failed. The last says how it was: an error's words are all that is
/// ever shown of such statements.
async fn mysql(flavour: Flavour, site: &Site) -> Result<bool, EngineError> {
    let at = format!("user = '{}' AND host = '{}'", names::ADMIN, names::LOCAL);
    let account = text(&site.engine_account);
    let rights = engine::all_rights(flavour, site);
    let mut statements = vec![
        // It is this server's alone, and no change of its data.
        "SET sql_log_bin = 0;".to_owned(),
        "REPLACE INTO mysql.plugin VALUES ('auth_socket', 'auth_socket.so');".to_owned(),
        format!(
            "SET @in_order = (SELECT count(*) FROM mysql.user WHERE {at} AND plugin = 'auth_socket' AND \
             authentication_string = {account} AND account_locked = 'N' AND ssl_type = '' AND max_questions = 0 AND \
             max_updates = 0 AND max_connections = 0 AND max_user_connections = 0 AND user_attributes IS NULL) AND \
             ({rights});"
        ),
        format!("CREATE USER IF NOT EXISTS {}@{} IDENTIFIED WITH auth_socket;", names::ADMIN, names::LOCAL),
    ];
    statements.extend(made_for(site, "ALTER USER"));
    statements.push(format!(
        "ALTER USER {}@{} REQUIRE NONE WITH MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0 MAX_CONNECTIONS_PER_HOUR 0 \
         MAX_USER_CONNECTIONS 0 ACCOUNT UNLOCK;",
        names::ADMIN,
        names::LOCAL
    ));
    statements.push("SHUTDOWN;".to_owned());
    statements.push(format!("DO IF(@in_order, UUID_TO_BIN('{IN_ORDER}'), 0);"));
    let at = write_statements(site, "repair.sql", &statements).await?;
    let command = Command::engine(flavour.program(site)).arg(argument("defaults-file", site, &config::file()));
    let command = command.arg("--skip-networking").arg("--plugin-load-add=auth_socket.so");
    let command = command.arg(argument("init-file", site, &at)).arg("--log-error-verbosity=2");
    let said = site.host.run(with_modes(command.deadline(LIMIT))).await?;
    site.host.remove(&at).await?;
    Ok(said.stderr.contains(IN_ORDER))
}
