//! Names of databases and of accounts, which are written `database.name`: an account logs in at its database.

use trove_strategy::{EngineError, Kind, NameRules};

/// Longest name of a database, bytes.
const DATABASE_BYTES: usize = 63;

/// Longest name of an account with its database, bytes. The server has no limit of its own.
const USER_BYTES: usize = 255;

/// What the server does not take in the name of a database.
const FORBIDDEN: &str = "/\\. \"$";

/// SCRAM writes these in the name of an account otherwise (RFC 5802), and the driver for Rust does not: who has one there would log
/// in with some drivers only.
const CLIENTS_DISAGREE: &str = ",=";

/// The server's own databases.
pub(crate) const OWN: [&str; 3] = ["admin", "config", "local"];

/// The account that a tenant may ask for.
pub(crate) const ROOT: &str = "root";

/// Where it and the agent's account log in.
pub(crate) const HOME: &str = "admin";

/// Rules for names of databases.
pub(crate) fn of_databases() -> NameRules {
    let mut rules = NameRules::new(DATABASE_BYTES, &OWN);
    FORBIDDEN.clone_into(&mut rules.forbidden_characters);
    rules
}

/// Rules for names of accounts.
pub(crate) fn of_users() -> NameRules {
    let mut rules = NameRules::new(USER_BYTES, &["admin.os_admin", "admin.root"]);
    CLIENTS_DISAGREE.clone_into(&mut rules.forbidden_characters);
    rules.reserved_prefixes = OWN.map(|own| format!("{own}.")).to_vec();
    rules
}

fn invalid(what: &str, name: &str, reason: &str) -> EngineError {
    EngineError::new(Kind::Invalid, format!("{what} {name:?}: the name {reason}"))
}

/// Refuses a name that the server would refuse, or that is not the tenant's. The server keeps databases apart by more than the
/// case of their letters.
pub(crate) fn check_database(name: &str) -> Result<(), EngineError> {
    match of_databases().refusal(name) {
        Some(reason) => Err(invalid("the database", name, &reason)),
        None if OWN.iter().any(|own| own.eq_ignore_ascii_case(name)) => {
            Err(invalid("the database", name, "differs from that of the server's own only in case"))
        }
        None => Ok(()),
    }
}

/// The database and the name of a tenant's account.
pub(crate) fn split(name: &str) -> Result<(&str, &str), EngineError> {
    if let Some(reason) = of_users().refusal(name) {
        return Err(invalid("the account", name, &reason));
    }
    match name.split_once('.') {
        // The server takes the whole for that of a collection, and those begin with no dot.
        Some((database, user)) if !user.is_empty() && !user.starts_with('.') => {
            check_database(database).map(|()| (database, user))
        }
        _ => Err(invalid("the account", name, "is to be written database.name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_split_where_the_database_ends() {
        assert_eq!(split("a.b.c d").unwrap(), ("a", "b.c d"));
        for wrong in ["", "a", "a.", ".b", "admin.x", "Admin.x", "a b.c", "a$.c", "config.x", "a..b", "a.b,c"] {
            assert_eq!(split(wrong).unwrap_err().kind(), Kind::Invalid, "{wrong}");
        }
        assert!(split(&format!("a.{}", "x".repeat(254))).is_err());
    }

    #[test]
    fn databases_of_the_servers_own_are_refused_in_any_case() {
        for wrong in ["admin", "ADMIN", "Local", "config", "a.b", "a b", "", "x\0"] {
            assert!(check_database(wrong).is_err(), "{wrong:?}");
        }
        assert!(check_database(&"ü".repeat(31)).is_ok() && check_database(&"ü".repeat(32)).is_err());
    }
}
