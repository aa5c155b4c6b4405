//! The configuration file: a pure function of the site and the settings. It lies outside of the data directory, and the server
//! reads no other.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde_json::Value;
use trove_strategy::{Directory, EngineError, Kind, Location, Settings, Site, TlsMode};

use crate::Flavour;
use crate::client::socket;
use crate::owned::is_owned;

/// The longest value of a parameter.
const VALUE_BYTES: usize = 1000;

/// How long the log of changes is kept, at most. It is shorter where it takes more than [`log_bytes`].
const LOG_KEPT_S: u32 = 7 * 24 * 3600;

/// The file.
pub(crate) fn file() -> Location {
    Directory::Config.join("my.cnf")
}

/// Directories that the engine's account can read and nobody writes to: there is no plug-in to load, and no file for SQL to read
/// or write.
pub(crate) fn empty() -> [Location; 2] {
    [Directory::Config.join("plugins"), Directory::Config.join("no-files")]
}

/// Temporary files: on the volume, so that they are counted on it.
pub(crate) fn temporary() -> Location {
    Directory::Data.join("tmp")
}

/// As much as the log of changes may take: a quarter of the volume.
pub(crate) fn log_bytes(site: &Site) -> u64 {
    site.size.volume_gib << 28
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The size of the log for recovery, MiB.
pub(crate) fn redo_mib(site: &Site) -> u64 {
    (site.size.volume_gib * 1024 / 16).clamp(32, 1024)
}

/// What the size suggests, and what a tenant may choose instead.
fn sized(flavour: Flavour, site: &Site) -> Vec<(&'static str, String)> {
    let memory = site.size.memory_mib.max(256);
    let megabytes = |mib: u64| (mib << 20).to_string();
    let mut all = vec![
        // The rest is for sessions, temporary tables and the server itself, which takes some 100 MiB.
        ("innodb_buffer_pool_size", megabytes((memory * 45 / 100).max(64))),
        ("max_connections", (memory / 8).clamp(32, 2000).to_string()),
        ("tmp_table_size", megabytes((memory / 64).clamp(8, 64))),
        ("max_heap_table_size", megabytes((memory / 64).clamp(8, 64))),
        ("key_buffer_size", megabytes(8)),
        ("table_open_cache", memory.clamp(400, 4000).to_string()),
        ("character_set_server", "utf8mb4".to_owned()),
        // What is acknowledged is on the disk, in the tables' log and in the log of changes.
        ("innodb_flush_log_at_trx_commit", "1".to_owned()),
        ("sync_binlog", "1".to_owned()),
    ];
    if flavour.is_mariadb() {
        all.push(("innodb_log_file_size", megabytes(redo_mib(site))));
        all.push(("aria_pagecache_buffer_size", megabytes(16)));
    } else {
        all.push(("innodb_redo_log_capacity", megabytes(redo_mib(site))));
    }
    all
}

/// What the agent decides: where the server is and whom it lets in, the log of changes, and what a tenant could turn against the
/// agent or the machine.
fn owned(flavour: Flavour, site: &Site, settings: &Settings) -> Vec<(&'static str, String)> {
    let place = |at: &Location| path(&site.path(at));
    let [plugins, no_files] = empty();
    let word = str::to_owned;
    let on = |is_on: bool| word(if is_on { "ON" } else { "OFF" });
    let mut all = vec![
        ("datadir", path(&site.data)),
        ("tmpdir", place(&temporary())),
        ("socket", place(&socket())),
        ("pid_file", place(&Directory::Run.join("engine.pid"))),
        ("port", site.port.to_string()),
        ("bind_address", site.address.to_string()),
        // Hosts of accounts are addresses: no name is looked up.
        ("skip_name_resolve", on(true)),
        ("secure_file_priv", place(&no_files)),
        ("local_infile", on(false)),
        ("general_log_file", path(&site.data.join("general.log"))),
        ("slow_query_log_file", path(&site.data.join("slow.log"))),
        ("ssl_ca", place(&site.tls.authority)),
        ("ssl_cert", place(&site.tls.certificate)),
        ("ssl_key", place(&site.tls.key)),
        ("tls_version", word("TLSv1.2,TLSv1.3")),
        ("require_secure_transport", on(settings.tls == TlsMode::Enforced)),
        ("server_id", site.server_id.max(1).to_string()),
        ("log_bin", path(&site.data.join("binlog"))),
        ("binlog_format", word("ROW")),
        ("binlog_expire_logs_seconds", LOG_KEPT_S.to_string()),
        ("max_binlog_size", (log_bytes(site) / 8).clamp(4 << 20, 1 << 30).to_string()),
        // Else only who may do everything could make functions and triggers; the log holds rows, and so what they did.
        ("log_bin_trust_function_creators", on(true)),
        // A session may take it back for itself, and so can delete.
        ("transaction_read_only", on(settings.read_only)),
    ];
    let own: &[(&'static str, &str)] = if flavour.is_mariadb() {
        &[
            ("symbolic_links", "OFF"),
            ("gtid_strict_mode", "ON"),
            ("log_slave_updates", "ON"),
            // Else whoever is let in could say of a change that it is of another time, to which the log is not replayed then.
            ("secure_timestamp", "SUPER"),
            ("strict_password_validation", "OFF"),
            ("init_connect", ""),
        ]
    } else {
        &[
            // What SET PERSIST wrote would win over this file.
            ("persisted_globals_load", "OFF"),
            ("mysqlx", "OFF"),
            ("gtid_mode", "ON"),
            ("enforce_gtid_consistency", "ON"),
            ("partial_revokes", "ON"),
            ("init_connect", ""),
        ]
    };
    all.extend(own.iter().map(|(name, text)| (*name, word(text))));
    if flavour.is_mariadb() {
        // What the agent's account logs in by is built in. MySQL's is a plug-in in the packages' directory, which is root's.
        all.push(("plugin_dir", place(&plugins)));
    }
    all
}

/// Refuses what a tenant may not set, and what would leave its line of the file.
pub(crate) fn check(name: &str, value: &Value) -> Result<(), EngineError> {
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let reason = match value {
        _ if !is_name => "this is no name",
        _ if is_owned(name) => "it is not the tenant's to set",
        Value::Bool(_) | Value::Number(_) => return Ok(()),
        Value::String(text) if text.len() > VALUE_BYTES => "its value is too long",
        Value::String(text) if !text.contains(|c: char| c.is_control() || c == '"' || c == '\\') => return Ok(()),
        _ => "its value is no single word or number",
    };
    Err(EngineError::new(Kind::Invalid, format!("the parameter {name:?}: {reason}")))
}

/// A parameter's value as an argument has it.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Bool(on) => if *on { "ON" } else { "OFF" }.to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What follows from the size and what was chosen instead, by name.
pub(crate) fn wanted(
    flavour: Flavour,
    site: &Site,
    settings: &Settings,
) -> Result<BTreeMap<String, String>, EngineError> {
    let mut all: BTreeMap<String, String> =
        sized(flavour, site).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for (name, value) in &settings.parameters {
        check(name, value)?;
        all.insert(name.to_ascii_lowercase(), plain(value));
    }
    Ok(all)
}

/// my.cnf.
pub(crate) fn main(flavour: Flavour, site: &Site, settings: &Settings) -> Result<String, EngineError> {
    let mut text = String::from("# Written by the agent; changes are lost. Later lines win.\n[mysqld]\n");
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} = \"{}\"", value.replace('\\', "\\\\"));
    };
    for (name, value) in wanted(flavour, site, settings)? {
        line(&name, &value);
    }
    for (name, value) in owned(flavour, site, settings) {
        line(name, &value);
    }
    Ok(text)
}

/// What the running server is told of what the agent decides. One who was root can have changed it.
pub(crate) fn live(flavour: Flavour, site: &Site, settings: &Settings) -> Vec<(&'static str, String)> {
    let read_only = flavour.either("tx_read_only", "transaction_read_only");
    let names = ["require_secure_transport", "local_infile", "general_log_file", "slow_query_log_file", "init_connect"];
    let mut all = owned(flavour, site, settings);
    all.retain(|(name, _)| names.contains(name));
    all.push((read_only, u8::from(settings.read_only).to_string()));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_leave_their_line() {
        assert!(check("sql_mode", &Value::from("ANSI, it's")).is_ok());
        assert_eq!(plain(&Value::from(true)), "ON");
        for wrong in ["x\nplugin_dir=/tmp", "x\" #", "x\\", "x\0"] {
            assert!(check("sql_mode", &Value::from(wrong)).is_err(), "{wrong:?}");
        }
        assert!(check("a = 1\nport", &Value::from(1)).is_err());
        assert!(check("wait_timeout", &Value::Null).is_err());
        assert!(check("PLUGIN_DIR", &Value::from("/tmp")).is_err());
        assert!(check("wait_timeout", &Value::from("1".repeat(VALUE_BYTES + 1))).is_err());
    }
}
