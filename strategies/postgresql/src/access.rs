//! Who may enter a database: a role without login for each database holds its grants, and accounts are made members.
//!
//! PostgreSQL has no grant that says "everything that exists and will exist here". A member of the database's owner has
//! what the owner has, and default privileges (manual, ALTER DEFAULT PRIVILEGES) hand on what a member makes. Granting
//! to each account alone would leave every account with tables that no other account of the database can read.

use sha2::{Digest, Sha256};
use trove_strategy::{EngineError, Site};

use crate::GROUP_PREFIX;
use crate::client::{HOME, Session, sql_identifier, sql_literal};
use crate::names::check_database;

/// The role that holds a database's grants. Its name is made from the database's, since that may have 63 bytes itself.
pub(crate) fn group_of(database: &str) -> String {
    let digest = Sha256::digest(database.as_bytes());
    let hex: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("{GROUP_PREFIX}{hex}")
}

/// Makes the role when it is not there.
pub(crate) async fn ensure_group(home: &Session, database: &str) -> Result<String, EngineError> {
    let group = group_of(database);
    let attempt = format!("make the role for access to {database:?}");
    let known = format!("select 1 from pg_roles where rolname = {}", sql_literal(&group));
    if !home.any(&attempt, &known).await? {
        home.run(&attempt, &format!("create role {} nologin", sql_identifier(&group))).await?;
    }
    Ok(group)
}

/// Lets an account into a database.
pub(crate) async fn grant(site: &Site, user: &str, database: &str) -> Result<(), EngineError> {
    let attempt = format!("let {user:?} into {database:?}");
    let (role, name) = (sql_identifier(user), sql_identifier(database));
    check_database(database)?;
    // Opened first: for a database that is not there no role is to be made.
    let inside = Session::open(site, database).await?;
    let home = Session::open(site, HOME).await?;
    let group = sql_identifier(&ensure_group(&home, database).await?);
    // For a database that its tenant made by hand: the role is not its owner there.
    home.run(&attempt, &format!("grant all on database {name} to {group}; grant {group} to {role}")).await?;
    let mut sql = format!("grant usage, create on schema public to {group};");
    for kind in ["tables", "sequences", "functions", "types", "schemas"] {
        sql.push_str(&format!("alter default privileges for role {role} grant all on {kind} to {group};"));
    }
    inside.run(&attempt, &sql).await
}

/// Takes that away again; what the account made stays with the database.
pub(crate) async fn revoke(site: &Site, user: &str, database: &str) -> Result<(), EngineError> {
    check_database(database)?;
    let attempt = format!("shut {user:?} out of {database:?}");
    let role = sql_identifier(user);
    let inside = Session::open(site, database).await?;
    let home = Session::open(site, HOME).await?;
    let group = ensure_group(&home, database).await?;
    let sql = format!("reassign owned by {role} to {}; drop owned by {role}", sql_identifier(&group));
    inside.run(&attempt, &sql).await?;
    home.run(&attempt, &format!("revoke {} from {role}", sql_identifier(&group))).await?;
    cut_sessions(&home, Some(user), Some(database)).await
}

/// Ends the sessions of an account, of a database, or of an account in a database.
pub(crate) async fn cut_sessions(
    home: &Session,
    user: Option<&str>,
    database: Option<&str>,
) -> Result<(), EngineError> {
    let mut sql = "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()".to_owned();
    for (column, value) in [("usename", user), ("datname", database)] {
        if let Some(value) = value {
            sql.push_str(&format!(" and {column} = {}", sql_literal(value)));
        }
    }
    home.rows("cut sessions", &sql).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_of_a_database_fits_whatever_the_databases_name() {
        let long = "x".repeat(63);
        assert!(group_of(&long).len() <= 63);
        assert_ne!(group_of(&long), group_of("x"));
    }
}
