//! The configuration files: pure functions of the site and the settings. They lie outside the data directory.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;
use trove_strategy::{Directory, EngineError, Kind, Location, Settings, Site, TlsMode};

use crate::owned::is_owned;

/// The three files.
pub(crate) struct Files {
    pub(crate) main: Location,
    pub(crate) access: Location,
    pub(crate) accounts: Location,
}

impl Files {
    pub(crate) fn new() -> Self {
        let at = |name: &str| Directory::Config.join(name);
        Self { main: at("postgresql.conf"), access: at("pg_hba.conf"), accounts: at("pg_ident.conf") }
    }
}

/// A value in postgresql.conf. Manual, 20.1.2: single quotes, doubled inside; a backslash escapes, so it is doubled too.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// What the agent decides, as arguments: they win over `postgresql.auto.conf`, into which a tenant's superuser writes by
/// ALTER SYSTEM (manual, 20.1). Besides where the server listens and whom it lets in, these are the settings with which a
/// tenant could keep the agent out (libraries of its own, delays, every connection taken) or the server from starting.
pub(crate) fn owned(site: &Site) -> Vec<String> {
    let files = Files::new();
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let place = |at: &Location| path(&site.path(at));
    // A list of directories: quoted, since a comma parts them.
    let run = format!("\"{}\"", path(&site.run));
    let words = |words: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
        words.iter().map(|(name, word)| (*name, (*word).to_owned())).collect()
    };
    let mut all = vec![
        ("config_file", place(&files.main)),
        ("hba_file", place(&files.access)),
        ("ident_file", place(&files.accounts)),
        ("listen_addresses", site.address.to_string()),
        ("port", site.port.to_string()),
        ("unix_socket_directories", run),
        ("ssl_cert_file", place(&site.tls.certificate)),
        ("ssl_key_file", place(&site.tls.key)),
        ("ssl_ca_file", place(&site.tls.authority)),
        ("max_slot_wal_keep_size", format!("{}MB", kept_log_mib(site))),
    ];
    all.extend(words(&[
        ("unix_socket_permissions", "0700"),
        ("unix_socket_group", ""),
        ("bonjour", "off"),
        ("external_pid_file", ""),
        ("password_encryption", "scram-sha-256"),
        ("ssl", "on"),
        ("ssl_crl_file", ""),
        ("ssl_crl_dir", ""),
        ("ssl_dh_params_file", ""),
        ("ssl_passphrase_command", ""),
        ("ssl_min_protocol_version", "TLSv1.2"),
        ("ssl_max_protocol_version", ""),
        ("shared_preload_libraries", ""),
        ("session_preload_libraries", ""),
        ("local_preload_libraries", ""),
        ("dynamic_library_path", "$libdir"),
        ("jit_provider", "llvmjit"),
        ("superuser_reserved_connections", "5"),
        ("pre_auth_delay", "0"),
        ("post_auth_delay", "0"),
        // Who has not logged in holds one of few connections.
        ("authentication_timeout", "15s"),
        ("restart_after_crash", "on"),
        // One that is prepared keeps its locks and what it will give, across restarts and after root is disabled.
        ("max_prepared_transactions", "0"),
        // Files in the data directory go with it; segments in /dev/shm outlive a server that is killed.
        ("dynamic_shared_memory_type", "mmap"),
        ("shared_memory_type", "mmap"),
        // Backups, replicas and points in time begin without a restart. The log is kept by slots, and archived by no program.
        ("wal_level", "replica"),
        ("wal_log_hints", "on"),
        ("max_wal_senders", SENDERS),
        ("max_replication_slots", SENDERS),
        ("hot_standby", "on"),
        ("archive_mode", "off"),
        ("archive_library", ""),
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
    ]));
    if major(site) >= 17 {
        all.push(("summarize_wal", "on".to_owned()));
    } else {
        // Older versions only. With it an account without a database in its name, the agent's too, cannot log in.
        all.push(("db_user_namespace", "off".to_owned()));
    }
    all.into_iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]).collect()
}

/// As many as follow it, are copied or ship its log at once.
const SENDERS: &str = "10";

/// As much of the log as is kept for a backup that is being taken, or for somebody who follows it: a quarter of the
/// volume, which a storage that is slow, or a follower that is gone, must not fill.
pub(crate) fn kept_log_mib(site: &Site) -> u64 {
    (site.size.volume_gib * 1024 / 4).max(256)
}

/// The number that versions with the same data have in common.
pub(crate) fn major(site: &Site) -> u32 {
    site.installation.major.parse().unwrap_or_default()
}

/// What the size suggests: a quarter of the memory for buffers, the rest for the system's cache, connections and work
/// memory so that all of them at once fit (manual, 20.4; the rules of thumb of its wiki page on tuning).
fn sized(site: &Site) -> Vec<(&'static str, String)> {
    let memory = site.size.memory_mib.max(256);
    let connections = (memory / 10).clamp(50, 500);
    let buffers = memory / 4;
    let work_kib = ((memory - buffers) * 1024 / (connections * 3)).clamp(1024, 64 * 1024);
    let workers = site.size.vcpus.max(1);
    let wal_mib = (site.size.volume_gib * 1024 / 8).clamp(256, 4096);
    vec![
        ("max_connections", connections.to_string()),
        ("shared_buffers", format!("{buffers}MB")),
        ("effective_cache_size", format!("{}MB", memory * 3 / 4)),
        ("work_mem", format!("{work_kib}kB")),
        ("maintenance_work_mem", format!("{}MB", (memory / 16).clamp(16, 1024))),
        ("max_wal_size", format!("{wal_mib}MB")),
        ("min_wal_size", "80MB".to_owned()),
        ("max_worker_processes", (workers + 7).to_string()),
        ("max_parallel_workers", workers.to_string()),
        ("max_parallel_workers_per_gather", (workers / 2).to_string()),
    ]
}

const TEXT_SEARCH: &str = "default_text_search_config";

/// Whether it is a name, or a name in a schema, that needs no quotes.
fn is_qualified(text: &str) -> bool {
    let is_plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    text.split('.').count() <= 2 && text.split('.').all(is_plain)
}

/// Refuses what a tenant may not set, and what would leave its line of the file.
pub(crate) fn check(name: &str, value: &Value) -> Result<(), EngineError> {
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let reason = match value {
        _ if !is_name => "this is no name",
        _ if is_owned(name) => "it is not the tenant's to set",
        // While another text stands in the files, every question about the files fails (pg_show_all_file_settings).
        Value::String(text) if name.eq_ignore_ascii_case(TEXT_SEARCH) && !is_qualified(text) => {
            "its value is no name of a text search configuration"
        }
        Value::Bool(_) | Value::Number(_) => return Ok(()),
        Value::String(text) if !text.contains(['\n', '\r', '\0']) => return Ok(()),
        _ => "its value is no single word or number",
    };
    Err(EngineError::new(Kind::Invalid, format!("the parameter {name:?}: {reason}")))
}

/// A parameter's value as an argument has it.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A parameter's value as the file has it.
fn value(value: &Value) -> String {
    if value.is_string() { quoted(&plain(value)) } else { plain(value) }
}

/// postgresql.conf.
pub(crate) fn main(site: &Site, settings: &Settings) -> Result<String, EngineError> {
    let defaults = [
        ("log_line_prefix", "'%m [%p] %q%u@%d '".to_owned()),
        ("log_checkpoints", "on".to_owned()),
        ("timezone", "'UTC'".to_owned()),
        ("huge_pages", "'try'".to_owned()),
        ("log_timezone", "'UTC'".to_owned()),
        // A server that an earlier version of the agent started archives, and would keep each segment until its next start.
        ("archive_command", "'true'".to_owned()),
        // A client that vanished gives its connection back in minutes; the kernel's own two hours are too long for few.
        ("tcp_keepalives_idle", "300".to_owned()),
    ];
    let mut text =
        String::from("# Written by the agent; changes are lost. What the agent owns is on the command line.\n");
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} = {value}");
    };
    for (name, value) in sized(site).iter().chain(&defaults) {
        line(name, value);
    }
    for (name, chosen) in &settings.parameters {
        check(name, chosen)?;
        line(name, &value(chosen));
    }
    if settings.read_only {
        // A session may take it back for itself, and so can delete.
        line("default_transaction_read_only", "on");
    }
    Ok(text)
}

/// pg_hba.conf: the agent by its account over the private socket and nowhere else, everybody else by password.
pub(crate) fn access(settings: &Settings) -> String {
    let tenants = match settings.tls {
        TlsMode::Basic => "host",
        TlsMode::Enforced => "hostssl",
    };
    format!(
        "# Written by the agent; changes are lost. The first line that fits decides.\n\
         local   all         os_admin            peer map=agent\n\
         local   replication os_admin            peer map=agent\n\
         local   all         all                 scram-sha-256\n\
         host    all         os_admin  all       reject\n\
         host    replication all       all       reject\n\
         {tenants:<7} all         all       all       scram-sha-256\n"
    )
}

/// pg_ident.conf.
pub(crate) fn accounts(site: &Site) -> String {
    format!("# Written by the agent; changes are lost.\nagent {} os_admin\n", quoted_account(&site.agent_account))
}

/// Manual, 21.2: a name may stand in double quotes.
fn quoted_account(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_leave_their_line() {
        assert_eq!(value(&Value::from("it's \\ here")), "'it''s \\\\ here'");
        assert_eq!(value(&Value::from(true)), "on");
        assert!(check("a", &Value::from("it's \\ here")).is_ok());
        assert!(check("a", &Value::from("x\nssl = off")).is_err());
        assert!(check("a = 1\nssl", &Value::from(1)).is_err());
        assert!(check("a", &Value::Null).is_err());
        assert!(check("SSL", &Value::from("off")).is_err());
    }

    #[test]
    fn a_text_search_configuration_is_named_without_quotes() {
        for name in ["simple", "pg_catalog.english"] {
            assert!(check(TEXT_SEARCH, &Value::from(name)).is_ok(), "{name}");
        }
        for name in ["", ".", "a.", "a b", "a.b.c", "\"a\"", "1"] {
            assert!(check("Default_Text_Search_Config", &Value::from(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn plain_tcp_is_refused_only_when_tls_is_enforced() {
        let mut enforced = Settings::default();
        enforced.tls = TlsMode::Enforced;
        let enforced = access(&enforced);
        assert!(enforced.contains("\nhostssl all         all") && !enforced.contains("\nhost    all         all "));
        assert!(access(&Settings::default()).contains("\nhost    all         all       all       scram-sha-256"));
    }
}
