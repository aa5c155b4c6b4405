//! The configuration files: pure functions of the site and the settings. They lie outside the data directory.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde_json::Value;
use trove_strategy::{Directory, EngineError, Kind, Location, Settings, Site, Size, TlsMode};

use crate::owned::is_owned;
use crate::{acl, client};

/// The port of encrypted connections: this engine cannot speak both on one.
pub const TLS_PORT: u16 = 6380;

/// Most connections that may be chosen. The server finds out how many open files the system grants by asking for 16 less again
/// and again, and answers nobody meanwhile: from a thousand million on for half a minute.
pub(crate) const CLIENTS_MAX: u64 = 1_000_000;

/// How many hundredths of the memory data may take. Rewriting the log forks, and pages that are written meanwhile exist twice: a
/// part stays free for them (documentation, "Memory optimization").
pub(crate) const DATA_PERCENT: u64 = 60;

/// Least memory for data, MiB.
const LEAST_MEMORY_MIB: u64 = 64;

/// The two files.
pub(crate) struct Files {
    /// What is the agent's. It includes the other one first, so that its own lines win.
    pub(crate) main: Location,
    /// What follows from the size, and what was chosen.
    pub(crate) user: Location,
}

impl Files {
    pub(crate) fn new() -> Self {
        Self { main: Directory::Config.join("engine.conf"), user: Directory::Config.join("user.conf") }
    }
}

/// One word of a line: redis.conf, "in quotes with the escapes of C".
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// Memory for data, MiB.
pub(crate) fn memory_mib(size: Size) -> u64 {
    (size.memory_mib * DATA_PERCENT / 100).max(LEAST_MEMORY_MIB)
}

/// What the size suggests.
fn sized(site: &Site) -> BTreeMap<String, String> {
    let values = [
        ("maxmemory", (memory_mib(site.size) << 20).to_string()),
        // An acknowledged write is on the disk. `everysec` is faster and loses up to two seconds.
        ("appendfsync", "always".to_owned()),
        // The log has all; snapshots would be written beside it for nobody.
        ("save", String::new()),
    ];
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A parameter's value as the engine writes it.
fn value(name: &str, value: &Value) -> Result<String, EngineError> {
    let wrong = |reason: &str| EngineError::new(Kind::Invalid, format!("the parameter {name:?}: {reason}"));
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        return Err(wrong("this is no name"));
    }
    match value {
        Value::Bool(on) => Ok(if *on { "yes" } else { "no" }.to_owned()),
        Value::Number(number) => Ok(number.to_string()),
        Value::String(text) if !text.contains(char::is_control) => Ok(text.clone()),
        _ => Err(wrong("its value is no single word or number")),
    }
}

/// Refuses a number of connections with which no server gets ready.
pub(crate) fn check_clients(chosen: &BTreeMap<String, String>) -> Result<(), EngineError> {
    let Some(clients) = chosen.get("maxclients") else { return Ok(()) };
    if clients.trim().parse().is_ok_and(|clients: u64| clients > CLIENTS_MAX) {
        let reason = format!("the parameter \"maxclients\": {clients} is more than {CLIENTS_MAX}");
        return Err(EngineError::new(Kind::Invalid, reason));
    }
    Ok(())
}

/// What was chosen, by the engine's names.
pub(crate) fn chosen(parameters: &BTreeMap<String, Value>) -> Result<BTreeMap<String, String>, EngineError> {
    let mut all = BTreeMap::new();
    for (name, given) in parameters {
        if is_owned(name) {
            let reason = format!("the parameter {name:?}: it is not the tenant's to set");
            return Err(EngineError::new(Kind::Invalid, reason));
        }
        all.insert(name.to_ascii_lowercase(), value(name, given)?);
    }
    Ok(all)
}

/// What user.conf says, from what the size suggests and what was chosen instead.
pub(crate) fn user(site: &Site, settings: &Settings) -> Result<BTreeMap<String, String>, EngineError> {
    let mut all = sized(site);
    all.extend(chosen(&settings.parameters)?);
    if settings.read_only {
        // Commands that need memory are refused, those that free some are not, and nothing is evicted.
        all.insert("maxmemory".to_owned(), "1".to_owned());
        all.insert("maxmemory-policy".to_owned(), "noeviction".to_owned());
    }
    Ok(all)
}

/// What of it decides whether there is room for writes.
pub(crate) fn room(site: &Site, settings: &Settings) -> Result<BTreeMap<String, String>, EngineError> {
    let mut all = user(site, settings)?;
    all.retain(|name, _| name == "maxmemory" || name == "maxmemory-policy");
    // The engine's default, to which it goes back when the volume has room again.
    all.entry("maxmemory-policy".to_owned()).or_insert_with(|| "noeviction".to_owned());
    Ok(all)
}

/// One line a parameter. A value of several words is written as such.
pub(crate) fn lines(values: &BTreeMap<String, String>) -> String {
    let mut text = String::from("# Written by the agent; changes are lost.\n");
    for (name, value) in values {
        let words: Vec<String> = value.split_whitespace().map(quoted).collect();
        let words = if words.is_empty() { quoted("") } else { words.join(" ") };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} {words}");
    }
    text
}

/// What [`lines`] wrote.
pub(crate) fn read(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (name, words) = line.split_once(' ')?;
        let words: Vec<String> = words.split(' ').map(unquoted).collect();
        (name != "#").then(|| (name.to_owned(), words.join(" ")))
    };
    text.lines().filter_map(line).collect()
}

/// What [`quoted`] made a word of.
fn unquoted(word: &str) -> String {
    let inner = word.strip_prefix('"').and_then(|word| word.strip_suffix('"')).unwrap_or(word);
    let mut text = String::new();
    let mut escaped = false;
    for c in inner.chars() {
        escaped = c == '\\' && !escaped;
        if !escaped {
            text.push(c);
        }
    }
    text
}

/// What is said about connections: the listeners and the certificate. All of it can be changed while the server runs.
pub(crate) fn network(site: &Site, tls: TlsMode) -> [(&'static str, String); 5] {
    let port = match tls {
        TlsMode::Basic => site.port,
        TlsMode::Enforced => 0,
    };
    let text = |at: &Location| site.path(at).to_string_lossy().into_owned();
    [
        ("tls-cert-file", text(&site.tls.certificate)),
        ("tls-key-file", text(&site.tls.key)),
        ("tls-ca-cert-file", text(&site.tls.authority)),
        ("port", port.to_string()),
        ("tls-port", TLS_PORT.to_string()),
    ]
}

/// engine.conf.
pub(crate) fn main(site: &Site, settings: &Settings) -> String {
    let fixed = [
        ("bind", quoted(&site.address.to_string())),
        ("protected-mode", "yes".to_owned()),
        ("unixsocket", path(&site.path(&client::socket()))),
        ("unixsocketperm", "700".to_owned()),
        ("aclfile", path(&site.path(&acl::file()))),
        ("tls-auth-clients", "no".to_owned()),
        ("tls-protocols", quoted("TLSv1.2 TLSv1.3")),
        ("dir", path(&site.data)),
        ("dbfilename", "dump.rdb".to_owned()),
        ("appenddirname", "appendonlydir".to_owned()),
        ("appendfilename", "appendonly.aof".to_owned()),
        ("appendonly", "yes".to_owned()),
        ("aof-timestamp-enabled", "yes".to_owned()),
        ("aof-use-rdb-preamble", "yes".to_owned()),
        ("aof-load-truncated", "yes".to_owned()),
        ("enable-debug-command", "no".to_owned()),
        ("enable-module-command", "no".to_owned()),
        ("enable-protected-configs", "no".to_owned()),
        // A forged value that RESTORE is given could overwrite the server's memory.
        ("sanitize-dump-payload", "clients".to_owned()),
        ("daemonize", "no".to_owned()),
        ("supervised", "no".to_owned()),
        // The agent knows the process by its command line.
        ("set-proc-title", "no".to_owned()),
        ("logfile", quoted("")),
        ("syslog-enabled", "no".to_owned()),
    ];
    let mut text = String::from("# Written by the agent; changes are lost. Later lines win.\n");
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} {value}");
    };
    line("include", &path(&site.path(&Files::new().user)));
    for (name, value) in &fixed {
        line(name, value);
    }
    for (name, value) in network(site, settings.tls) {
        line(name, &quoted(&value));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_leave_their_line() {
        assert_eq!(value("a", &Value::from("it's \\ here")).unwrap(), "it's \\ here");
        assert_eq!(value("a", &Value::from(true)).unwrap(), "yes");
        assert!(value("a", &Value::from("x\nport 1")).is_err());
        assert!(value("a 1\nport", &Value::from(1)).is_err());
        assert!(value("a", &Value::Null).is_err());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let values = [("save", "900 1 300 10"), ("a", "x\"y\\z"), ("empty", ""), ("odd", "\"a\\\" \\ \"")];
        let values: BTreeMap<_, _> = values.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(read(&lines(&values)), values);
    }

    #[test]
    fn what_is_the_agents_cannot_be_chosen() {
        for name in [
            "port",
            "DIR",
            "dbfilename",
            "aclfile",
            "requirepass",
            "masterauth",
            "tls-port",
            "rename-command",
            "include",
            "user",
            "loadmodule",
            "appendonly",
            "unixsocket",
            "replicaof",
            "enable-debug-command",
        ] {
            let parameters = [(name.to_owned(), Value::from("1"))].into();
            assert!(chosen(&parameters).is_err(), "{name}");
        }
    }
}
