//! What is peculiar to MySQL. Where it is not installed these tests say so and hold: `tests/scripts/with-mysql.sh` runs them with
//! Debian's packages.

#![allow(clippy::disallowed_methods, reason = "tests plant files and look at them")]
#![allow(clippy::print_stdout, reason = "one that is skipped says so")]

mod hostile;
mod parameters;
#[path = "../shared/mod.rs"]
mod shared;

use trove_mysql::Mysql;
use trove_strategy::Settings;

use hostile::powerful;
use shared::settings;

static ENGINE: Mysql = Mysql::for_mysql();

/// Debian has it in sid alone.
const MAY_BE_MISSING: bool = true;

/// The name of the agent's account.
const AGENT: Option<&str> = Some("os_admin");

/// What of [`odd`] needs a restart.
const WAITS: &[&str] = &[];

/// Accounts of the server's own.
const SYSTEM_ACCOUNTS: &[&str] = &["mysql.infoschema", "mysql.session", "mysql.sys"];

/// Variables of this engine alone, or with another value.
const VARIABLES: &[(&str, &str)] = &[
    ("gtid_mode", "ON"),
    ("enforce_gtid_consistency", "ON"),
    ("log_replica_updates", "1"),
    ("partial_revokes", "1"),
    ("persisted_globals_load", "0"),
    ("event_scheduler", "ON"),
];

/// The variable of the position, and what is in it of a server that wrote some.
const POSITION: (&str, &str) = ("gtid_executed", ":1-");

const READ_ONLY: &str = "transaction_read_only";

/// Values of a tenant's that would hinder an agent that reckons with the server's own.
fn odd() -> Settings {
    settings(&[
        ("sql_mode", "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH".into()),
        ("character_set_server", "latin1".into()),
        ("lock_wait_timeout", 1.into()),
        ("max_execution_time", 1.into()),
        ("max_allowed_packet", 1024.into()),
        ("max_connections", 10.into()),
        ("max_user_connections", 1.into()),
        ("wait_timeout", 1.into()),
        ("print_identified_with_as_hex", true.into()),
    ])
}
