//! What is peculiar to MariaDB: accounts by host, patterns in grants, a log of changes, and a root that may do nearly everything.

#![allow(clippy::disallowed_methods, reason = "tests plant files and look at them")]
#![allow(clippy::print_stdout, reason = "one that is skipped says so")]

mod hostile;
mod logs;
mod parameters;
#[path = "../shared/mod.rs"]
mod shared;

use trove_mysql::Mysql;
use trove_strategy::Settings;

use hostile::almighty as powerful;
use shared::settings;

static ENGINE: Mysql = Mysql::for_mariadb();

/// `make setup` installs it.
const MAY_BE_MISSING: bool = false;

/// The agent's account is named like the engine's.
const AGENT: Option<&str> = None;

/// What of [`odd`] needs a restart: where the server began without that limit it has to begin again.
const WAITS: &[&str] = &["max_user_connections"];

/// Accounts of the server's own.
const SYSTEM_ACCOUNTS: &[&str] = &["mariadb.sys"];

/// Variables of this engine alone, or with another value.
const VARIABLES: &[(&str, &str)] = &[("gtid_strict_mode", "1"), ("log_slave_updates", "1"), ("event_scheduler", "OFF")];

/// The variable of the position, and what is in it where the server's number is 4711.
const POSITION: (&str, &str) = ("gtid_binlog_pos", "0-4711-");

const READ_ONLY: &str = "tx_read_only";

/// Values of a tenant's that would hinder an agent that reckons with the server's own.
fn odd() -> Settings {
    settings(&[
        ("sql_mode", "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,ORACLE".into()),
        ("character_set_server", "latin1".into()),
        ("lock_wait_timeout", 1.into()),
        ("max_statement_time", 0.001.into()),
        ("sql_safe_updates", true.into()),
        ("max_allowed_packet", 1024.into()),
        ("max_connections", 10.into()),
        ("max_user_connections", 1.into()),
        ("wait_timeout", 1.into()),
        ("completion_type", "RELEASE".into()),
        ("tmp_disk_table_size", 1024.into()),
    ])
}
