//! Parameters that are the agent's: a tenant may neither set nor see them.

/// What the agent owns, or what would hand out files or listeners of the server's account.
const OWNED: &[&str] = &[
    "aclfile",
    "acl-pubsub-default",
    "always-show-logo",
    "bind",
    "bind-source-addr",
    "busy-reply-threshold",
    "daemonize",
    "dbfilename",
    "dir",
    "disable-thp",
    "ignore-warnings",
    "include",
    "logfile",
    "lua-time-limit",
    "pidfile",
    "port",
    "proc-title-template",
    "protected-mode",
    "rename-command",
    "requirepass",
    "sanitize-dump-payload",
    "set-proc-title",
    "shutdown-on-sigint",
    "shutdown-on-sigterm",
    "socket-mark-id",
    "supervised",
    "user",
    "watchdog-period",
];

/// Beginnings of names of the same kind: connections between servers, the log of writes, and names of the past that
/// mean another parameter.
const OWNED_BEGINNINGS: &[&str] = &[
    "aof-load-",
    "aof-timestamp-",
    "aof-use-",
    "append",
    "cluster",
    "enable-",
    "loadmodule",
    "masterauth",
    "masteruser",
    "min-slaves-",
    "module",
    "oom-score-",
    "primaryauth",
    "primaryuser",
    "rdma-",
    "replica-announce",
    "replica-read-only",
    "replicaof",
    "slave",
    "syslog",
    "tls-",
    "unixsocket",
];

/// Whether a tenant may not set it.
pub(crate) fn is_owned(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    if name == "appendfsync" {
        return false;
    }
    OWNED.contains(&name.as_str())
        || OWNED_BEGINNINGS.iter().any(|start| name.starts_with(start))
        || name.contains("-ziplist-")
        || name.ends_with("cpulist")
}
