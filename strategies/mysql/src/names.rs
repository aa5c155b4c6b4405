//! Names that are refused.

use trove_strategy::{EngineError, Kind, NameRules, Site};

use crate::Flavour;

/// The all-powerful account that a tenant may ask for: from any host.
pub(crate) const ROOT: &str = "root";
pub(crate) const ANY_HOST: &str = "%";
/// The agent's account, where the engine does not have to be told the name of the system's.
pub(crate) const ADMIN: &str = "os_admin";
pub(crate) const LOCAL: &str = "localhost";

/// Longest name of a database: 64 characters. Counted in bytes it is never too long.
pub(crate) const DATABASE_BYTES: usize = 64;
/// A database is a directory, in whose name every other character than letters, digits and `_` becomes five bytes.
pub(crate) const STORED_BYTES: usize = 255;
/// A name of this beginning is the directory's as it is.
pub(crate) const RAW_PREFIX: &str = "#mysql50#";

/// The server's own databases, and its files in the directory in which databases are directories.
pub(crate) const RESERVED_DATABASES: &[&str] = &[
    "mysql",
    "sys",
    "information_schema",
    "performance_schema",
    "os_admin",
    "aria_log_control",
    "ib_buffer_pool",
    "ib_logfile0",
    "ibdata1",
    "ibtmp1",
    "mariadb_upgrade_info",
    "mysql_upgrade_info",
    "undo001",
    "undo002",
    "undo_001",
    "undo_002",
];

/// Accounts of the agent, of the server and of its packages, and words of the server's.
pub(crate) const RESERVED_USERS: &[&str] = &[
    ADMIN,
    ROOT,
    "mysql",
    "mariadb.sys",
    "mysql.sys",
    "mysql.session",
    "mysql.infoschema",
    "public",
    "none",
    "current_user",
    "current_role",
    "event_scheduler",
    "system user",
    "unauthenticated user",
];

/// The databases that are the server's.
pub(crate) const SYSTEM: [&str; 4] = ["mysql", "sys", "information_schema", "performance_schema"];

/// The name of the agent's account. MariaDB 10.11 lets in whoever has the name of the account from which he connects, and takes
/// no other name (`IDENTIFIED VIA unix_socket AS` is ignored).
pub(crate) fn admin(flavour: Flavour, site: &Site) -> &str {
    if flavour.is_mariadb() { &site.engine_account } else { ADMIN }
}

fn check(what: &str, name: &str, rules: &NameRules) -> Result<(), EngineError> {
    match rules.refusal(name) {
        Some(reason) => Err(EngineError::new(Kind::Invalid, format!("the name of the {what} {name:?}: it {reason}"))),
        None => Ok(()),
    }
}

/// Refuses a database that the server would not take or that is not the tenant's.
pub(crate) fn check_database(flavour: Flavour, name: &str) -> Result<(), EngineError> {
    check("database", name, &flavour.identity().databases)
}

/// Refuses an account that the server would not take or that is not the tenant's.
pub(crate) fn check_user(flavour: Flavour, site: &Site, name: &str, host: &str) -> Result<(), EngineError> {
    check("account", name, &flavour.identity().users.names)?;
    if name == admin(flavour, site) && is_local(host) {
        let reason = format!("the account {name:?} from {host:?}: it is the agent's");
        return Err(EngineError::new(Kind::Invalid, reason));
    }
    if host.is_empty() || host.len() > 60 || host.chars().any(|c| c.is_control() || "'`\"@\\ ".contains(c)) {
        let reason = format!("the account {name:?}: {host:?} is no pattern of hosts");
        return Err(EngineError::new(Kind::Invalid, reason));
    }
    Ok(())
}

/// Whether an account is the server's or the agent's, and shown to nobody.
pub(crate) fn is_reserved(flavour: Flavour, site: &Site, name: &str, host: &str) -> bool {
    name.is_empty()
        || flavour.identity().users.names.is_reserved(name)
        || name == admin(flavour, site) && is_local(host)
}

fn is_local(host: &str) -> bool {
    host.eq_ignore_ascii_case(LOCAL)
}

/// Whether a database is shown to nobody.
pub(crate) fn is_reserved_database(flavour: Flavour, name: &str) -> bool {
    flavour.identity().databases.is_reserved(name)
}
