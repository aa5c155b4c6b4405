//! The accounts that there are and what they may enter, as the running server has them in its memory: its tables of accounts can
//! be replaced by one who was root, and hold what is not in force.

use trove_strategy::{EngineError, Grantee, Site};

use crate::client::{Session, identifier, meant};
use crate::{Flavour, names};

/// How an account is written in SQL.
pub(crate) fn account(id: &Grantee) -> String {
    format!("{}@{}", identifier(&id.name), identifier(&id.host))
}

/// `'name'@'host'`, in which nothing is escaped: the host comes behind the last sign that can be one.
pub(crate) fn grantee(text: &str) -> Option<Grantee> {
    let (name, host) = text.strip_prefix('\'')?.strip_suffix('\'')?.rsplit_once("'@'")?;
    Some(Grantee { name: name.to_owned(), host: host.to_owned() })
}

/// All accounts, the server's and the agent's included.
pub(crate) async fn all(session: &mut Session<'_>) -> Result<Vec<Grantee>, EngineError> {
    let sql = "select distinct grantee from information_schema.user_privileges";
    let rows = session.rows("list accounts", sql).await?;
    let mut all: Vec<Grantee> = rows.iter().filter_map(|row| grantee(row.first()?)).collect();
    all.sort();
    Ok(all)
}

/// Those of tenants, by name and host.
pub(crate) async fn of_tenants(
    flavour: Flavour,
    site: &Site,
    session: &mut Session<'_>,
) -> Result<Vec<Grantee>, EngineError> {
    let mut all = all(session).await?;
    all.retain(|id| !names::is_reserved(flavour, site, &id.name, &id.host));
    Ok(all)
}

/// Who has rights on which pattern of databases.
pub(crate) async fn grants(session: &mut Session<'_>) -> Result<Vec<(Grantee, String)>, EngineError> {
    let sql = "select distinct grantee, table_schema from information_schema.schema_privileges";
    let rows = session.rows("list grants", sql).await?;
    Ok(rows.into_iter().filter_map(|row| Some((grantee(row.first()?)?, row.into_iter().nth(1)?))).collect())
}

/// The databases that there are and that an account may enter, by name.
pub(crate) fn entered(
    flavour: Flavour,
    id: &Grantee,
    grants: &[(Grantee, String)],
    databases: &[String],
) -> Vec<String> {
    let own = grants.iter().filter(|(grantee, _)| grantee == id).filter_map(|(_, pattern)| meant(flavour, pattern));
    let mut entered: Vec<String> = own.filter(|name| databases.contains(name)).collect();
    entered.sort();
    entered.dedup();
    entered
}

/// Whether two hosts are the same: the server writes them in small letters.
pub(crate) fn same(id: &Grantee, other: &Grantee) -> bool {
    id.name == other.name && id.host.eq_ignore_ascii_case(&other.host)
}

/// As the server has it.
pub(crate) fn stored(id: &Grantee) -> Grantee {
    Grantee { name: id.name.clone(), host: id.host.to_ascii_lowercase() }
}

/// What the server says of how an account logs in; `None` when there is none.
pub(crate) async fn shown(session: &mut Session<'_>, id: &Grantee) -> Result<Option<String>, EngineError> {
    if !all(session).await?.iter().any(|known| same(known, id)) {
        return Ok(None);
    }
    session.value("look at an account", &format!("show create user {}", account(id))).await
}

/// Whether it is shut out.
pub(crate) fn is_locked(shown: &str) -> bool {
    shown.contains(" ACCOUNT LOCK")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grantee_is_read_whatever_is_in_its_name() {
        let id = |name: &str, host: &str| Some(Grantee { name: name.to_owned(), host: host.to_owned() });
        assert_eq!(grantee("'a'@'%'"), id("a", "%"));
        assert_eq!(grantee("'o'neil'@'10.%'"), id("o'neil", "10.%"));
        assert_eq!(grantee("'a'@'b'@'c'"), id("a'@'b", "c"));
        assert_eq!(grantee("''@''"), id("", ""));
        assert_eq!(grantee("a@b"), None);
    }
}
