//! The databases and roles that the server has, with the numbers by which work on them is done: a name may be stored in
//! another encoding than the one of the database that a session is in.

use sha2::{Digest, Sha256};
use trove_strategy::{EngineError, Site};

use crate::client::{HOME, Session, sql_literal};
use crate::{GROUP_PREFIX, RESERVED_DATABASES};

/// A database, reserved ones included.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) oid: String,
    pub(crate) name: String,
    /// Whether sessions are let in; a tenant can forbid it.
    pub(crate) open: bool,
    pub(crate) template: bool,
    pub(crate) owner: String,
    pub(crate) owner_oid: String,
    pub(crate) encoding: String,
    pub(crate) collation: String,
}

impl Place {
    /// The name of the role that holds the grants of this database. Where it owns the database it is the owner, under
    /// whatever name the database had when it was made.
    pub(crate) fn group(&self) -> String {
        if self.owner.starts_with(GROUP_PREFIX) { self.owner.clone() } else { group_of(&self.name) }
    }

    /// Whether it is the server's and not a tenant's.
    pub(crate) fn reserved(&self) -> bool {
        RESERVED_DATABASES.contains(&self.name.as_str())
    }
}

/// The role that holds a database's grants, where none owns it. Its name is made from the database's, since that may have
/// 63 bytes itself.
pub(crate) fn group_of(database: &str) -> String {
    format!("{GROUP_PREFIX}{}", hex::encode(&Sha256::digest(database.as_bytes())[..12]))
}

/// A role, reserved ones included.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) oid: String,
    pub(crate) name: String,
    /// It can log in, or could if a tenant had not forbidden it: what has a password was made as an account.
    pub(crate) logs_in: bool,
    pub(crate) connections: String,
}

/// A name as it was sent in hexadecimal digits. One that is no UTF-8 was stored in a database of a single-byte encoding.
fn decoded(digits: &str) -> Option<String> {
    let latin = |bytes: &[u8]| bytes.iter().copied().map(char::from).collect();
    Some(String::from_utf8(hex::decode(digits).ok()?).unwrap_or_else(|error| latin(error.as_bytes())))
}

/// All databases, by name.
pub(crate) async fn places(home: &Session) -> Result<Vec<Place>, EngineError> {
    let sql = "select d.oid, encode(namesend(d.datname), 'hex'), d.datallowconn, d.datistemplate, \
               coalesce(encode(namesend(o.rolname), 'hex'), ''), d.datdba, pg_encoding_to_char(d.encoding), d.datcollate \
               from pg_database d left join pg_authid o on o.oid = d.datdba order by d.datname collate \"C\"";
    let place = |row: Vec<String>| {
        let [oid, name, open, template, owner, owner_oid, encoding, collation] = <[String; 8]>::try_from(row).ok()?;
        let (name, owner) = (decoded(&name)?, decoded(&owner)?);
        let (open, template) = (open == "t", template == "t");
        Some(Place { oid, name, open, template, owner, owner_oid, encoding, collation })
    };
    Ok(home.rows("list databases", sql).await?.into_iter().filter_map(place).collect())
}

/// One of them.
pub(crate) async fn place(home: &Session, name: &str) -> Result<Option<Place>, EngineError> {
    Ok(places(home).await?.into_iter().find(|place| place.name == name))
}

/// All roles, by name.
pub(crate) async fn accounts(home: &Session) -> Result<Vec<Account>, EngineError> {
    let sql = "select oid, encode(namesend(rolname), 'hex'), rolcanlogin or rolpassword is not null, rolconnlimit \
               from pg_authid order by rolname collate \"C\"";
    let account = |row: Vec<String>| {
        let [oid, name, logs_in, connections] = <[String; 4]>::try_from(row).ok()?;
        Some(Account { oid, name: decoded(&name)?, logs_in: logs_in == "t", connections })
    };
    Ok(home.rows("list accounts", sql).await?.into_iter().filter_map(account).collect())
}

/// One of them.
pub(crate) async fn account(home: &Session, name: &str) -> Result<Option<Account>, EngineError> {
    Ok(accounts(home).await?.into_iter().find(|account| account.name == name))
}

/// A session in any database, also where a tenant lets none in: that is lifted for the moment of the login.
pub(crate) async fn enter(site: &Site, home: &Session, place: &Place) -> Result<Session, EngineError> {
    if place.open {
        return open(site, home, place).await;
    }
    allow(home, place, true).await?;
    let entered = open(site, home, place).await;
    allow(home, place, false).await?;
    entered
}

async fn open(site: &Site, home: &Session, place: &Place) -> Result<Session, EngineError> {
    // What was stored in another encoding cannot be said at a login; the name is made one that can.
    let stored =
        format!("select 1 from pg_database where oid = {} and datname = {}", place.oid, sql_literal(&place.name));
    if !home.any("look for a database", &stored).await? {
        let name = sql_literal(&place.name);
        let renamed = format!(
            "select format('alter database %I rename to %I', datname, {name}) from pg_database where oid = {}",
            place.oid
        );
        home.work("rename a database", &crate::client::each(&renamed)).await?;
    }
    Session::open(site, &place.name).await
}

async fn allow(home: &Session, place: &Place, whether: bool) -> Result<(), EngineError> {
    let sql = format!(
        "select format('alter database %I allow_connections {whether}', datname) from pg_database where oid = {}",
        place.oid
    );
    home.work("enter a database", &crate::client::each(&sql)).await
}

/// The databases in which the server knows of something that the role owns or is granted.
pub(crate) async fn traces(home: &Session, role: &str) -> Result<Vec<Place>, EngineError> {
    let sql =
        format!("select distinct dbid from pg_shdepend where refclassid = 'pg_authid'::regclass and refobjid = {role}");
    let known = home.rows("look for what the account has", &sql).await?.concat();
    Ok(places(home).await?.into_iter().filter(|place| known.contains(&place.oid)).collect())
}

/// A session in the database where the agent works when no other is meant.
pub(crate) async fn home(site: &Site) -> Result<Session, EngineError> {
    Session::open(site, HOME).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_encoding_are_read() {
        assert_eq!(decoded("6ac3bc").unwrap(), "jü");
        assert_eq!(decoded("6afc").unwrap(), "jü");
        assert_eq!(decoded("").unwrap(), "");
    }

    #[test]
    fn the_role_of_a_database_fits_whatever_the_databases_name() {
        let long = "x".repeat(63);
        assert!(group_of(&long).len() <= 63);
        assert_ne!(group_of(&long), group_of("x"));
    }
}
