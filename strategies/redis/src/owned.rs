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
    "propagation-error-behavior",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_run_programs_touch_files_load_code_or_shut_the_agent_out_is_not_the_tenants() {
        let files = ["dir", "dbfilename", "logfile", "pidfile", "aclfile", "unixsocket", "unixsocketperm", "include"];
        let files = files.into_iter().chain(["appendfilename", "appenddirname", "tls-key-file", "tls-cert-file"]);
        let code = ["loadmodule", "module-command", "enable-module-command", "enable-debug-command"];
        let code = code.into_iter().chain(["enable-protected-configs", "rename-command", "tls-key-file-pass"]);
        let agents = ["bind", "port", "tls-port", "protected-mode", "requirepass", "user", "acl-pubsub-default"];
        let agents = agents.into_iter().chain(["supervised", "daemonize", "set-proc-title", "sanitize-dump-payload"]);
        let servers = ["replicaof", "slaveof", "masterauth", "masteruser", "primaryauth", "cluster-enabled"];
        let servers = servers.into_iter().chain(["replica-announce-ip", "appendonly", "aof-timestamp-enabled"]);
        let servers = servers.chain(["aof-use-rdb-preamble", "aof-load-truncated", "oom-score-adj", "syslog-enabled"]);
        for name in files.chain(code).chain(agents).chain(servers) {
            assert!(is_owned(name) && is_owned(&name.to_uppercase()), "{name}");
        }
        for name in ["maxmemory", "maxmemory-policy", "appendfsync", "timeout", "databases", "maxclients"] {
            assert!(!is_owned(name), "{name}");
        }
    }
}
