//! Who may enter a database.

use trove_strategy::{EngineError, Grantee, Kind, Site};

use crate::accounts::{self, account};
use crate::client::{Session, identifier, literal, pattern};
use crate::names::{check_database, check_user};
use crate::{Flavour, sessions};

/// There is no such grant.
const NO_GRANT: [u16; 2] = [1141, 1147];

/// The databases that there are, the server's own included.
pub(crate) async fn names(session: &mut Session<'_>) -> Result<Vec<String>, EngineError> {
    let sql = "select schema_name from information_schema.schemata";
    let rows = session.rows("list databases", sql).await?;
    Ok(rows.into_iter().filter_map(|row| row.into_iter().next()).collect())
}

/// The account and the database, both of which have to be there.
async fn known(
    flavour: Flavour,
    site: &Site,
    session: &mut Session<'_>,
    attempt: &str,
    user: &Grantee,
    database: &str,
) -> Result<Vec<Grantee>, EngineError> {
    check_database(flavour, database)?;
    check_user(flavour, site, &user.name, &user.host)?;
    let gone = |what: &str| Err(EngineError::new(Kind::Gone, format!("{attempt}: there is no such {what}")));
    let all = accounts::all(session).await?;
    if !all.iter().any(|id| accounts::same(id, user)) {
        return gone("account");
    }
    if !names(session).await?.iter().any(|name| name == database) {
        return gone("database");
    }
    Ok(all)
}

/// Lets an account into a database: all that is in it, and that will be.
pub(crate) async fn grant(
    flavour: Flavour,
    site: &Site,
    session: &mut Session<'_>,
    user: &Grantee,
    database: &str,
) -> Result<(), EngineError> {
    let attempt = format!("let {}@{} into {database:?}", user.name, user.host);
    known(flavour, site, session, &attempt, user, database).await?;
    session.run(&attempt, &statement("grant", &pattern(flavour, database), "to", user)).await
}

/// Takes that away again, and ends the account's sessions in it, which would go on.
pub(crate) async fn revoke(
    flavour: Flavour,
    site: &Site,
    session: &mut Session<'_>,
    user: &Grantee,
    database: &str,
) -> Result<(), EngineError> {
    let attempt = format!("shut {}@{} out of {database:?}", user.name, user.host);
    let all = known(flavour, site, session, &attempt, user, database).await?;
    session.run_unless(&attempt, &statement("revoke", &pattern(flavour, database), "from", user), &NO_GRANT).await?;
    let user = accounts::stored(user);
    sessions::cut(session, |open| open.database == database && sessions::is_of(open, &user, &all)).await
}

/// `pattern` as it stands in grants.
pub(crate) fn statement(verb: &str, pattern: &str, preposition: &str, user: &Grantee) -> String {
    format!("{verb} all privileges on {}.* {preposition} {}", identifier(pattern), account(user))
}

/// Takes away what accounts have on a database that is gone, or is yet to be made: the server keeps it, and a database of the same
/// name would be theirs.
pub(crate) async fn forget(flavour: Flavour, session: &mut Session<'_>, database: &str) -> Result<(), EngineError> {
    let attempt = format!("revoke what was granted on {database:?}");
    let escaped = pattern(flavour, database);
    for (user, _) in accounts::grants(session).await?.iter().filter(|(_, granted)| *granted == escaped) {
        session.run_unless(&attempt, &statement("revoke", &escaped, "from", user), &NO_GRANT).await?;
    }
    // On single tables and columns of it, by accounts that were given the right to grant.
    let sql = format!(
        "select grantee, table_name from information_schema.table_privileges where table_schema = {0} union \
         select grantee, table_name from information_schema.column_privileges where table_schema = {0}",
        literal(database)
    );
    for row in session.rows(&attempt, &sql).await? {
        let [grantee, table] = <[String; 2]>::try_from(row)
            .map_err(|_| EngineError::new(Kind::Fatal, format!("{attempt}: a row has other columns")))?;
        let Some(user) = accounts::grantee(&grantee) else { continue };
        let on = format!("{}.{}", identifier(database), identifier(&table));
        let sql = format!("revoke all privileges on {on} from {}", account(&user));
        session.run_unless(&attempt, &sql, &NO_GRANT).await?;
    }
    Ok(())
}
