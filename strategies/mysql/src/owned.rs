//! Parameters that are the service's: a tenant may neither set nor see them.

/// What the agent owns, or what would hand out files, programs or listeners of the server's account, lock the agent out or keep
/// the server from starting.
const OWNED: &[&str] = &[
    "activate_all_roles_on_login",
    "admin_address",
    "admin_port",
    "allow_suspicious_udfs",
    "authentication_policy",
    "auto_generate_certs",
    "automatic_sp_privileges",
    "basedir",
    "bind_address",
    "caching_sha2_password_auto_generate_rsa_keys",
    "character_set_filesystem",
    "character_sets_dir",
    "check_proxy_users",
    "core_file",
    "datadir",
    "default_authentication_plugin",
    "disabled_storage_engines",
    "encrypt_binlog",
    "enforce_gtid_consistency",
    "enforce_storage_engine",
    "expire_logs_days",
    "flush",
    "ft_boolean_syntax",
    "ft_stopword_file",
    "general_log_file",
    "ignore_builtin_innodb",
    "ignore_db_dirs",
    "keyring_operations",
    "large_pages",
    "lc_messages_dir",
    "local_infile",
    "log_disabled_statements",
    "log_raw",
    "log_slow_query_file",
    "log_syslog",
    "log_tc_size",
    "lower_case_table_names",
    "max_binlog_size",
    "max_binlog_total_size",
    "metadata_locks_hash_instances",
    "mysql_native_password_proxy_users",
    "mysqlx",
    "old",
    "old_mode",
    "old_passwords",
    "partial_revokes",
    "password_history",
    "password_reuse_interval",
    "persist_only_admin_x509_subject",
    "persist_sensitive_variables_in_plaintext",
    "persisted_globals_load",
    "pid_file",
    "port",
    "protocol_version",
    "proxy_protocol_networks",
    "pseudo_replica_mode",
    "read_only",
    "require_secure_transport",
    "secure_auth",
    "secure_file_priv",
    "secure_timestamp",
    "shared_memory",
    "slow_query_log_file",
    "socket",
    "super_read_only",
    "terminology_use_previous",
    "tmpdir",
    "transaction_read_only",
    "tx_read_only",
    "upgrade",
    "validate_user_plugins",
    "xa_detach_on_prepare",
];

/// Beginnings of names of the same kind: files, plug-ins, keys, the log of changes and connections between servers.
const OWNED_BEGINNINGS: &[&str] = &[
    "aria_encrypt",
    "aria_force_",
    "aria_log_",
    "audit_",
    "authentication_ldap",
    "binlog_",
    "clone_",
    "component_",
    "debug",
    "encrypt_",
    "extra_",
    "feedback_",
    "file_key_",
    "group_replication",
    "gtid_",
    "init_",
    "innodb_buffer_pool_dump_",
    "innodb_buffer_pool_filename",
    "innodb_buffer_pool_load_",
    "innodb_data_",
    "innodb_dedicated_server",
    "innodb_default_encryption",
    "innodb_directories",
    "innodb_doublewrite",
    "innodb_encrypt",
    "innodb_fast_shutdown",
    "innodb_fatal_",
    "innodb_force_",
    "innodb_log_checkpoint_",
    "innodb_log_group_",
    "innodb_log_write_ahead_size",
    "innodb_monitor_",
    "innodb_page_size",
    "innodb_read_only",
    "innodb_redo_log_archive",
    "innodb_redo_log_encrypt",
    "innodb_temp_",
    "innodb_tmpdir",
    "innodb_undo_",
    "keyring",
    "log_bin",
    "log_error",
    "log_replica",
    "log_slave_",
    "master_",
    "mysqlx_",
    "named_pipe",
    "plugin",
    "relay_",
    "replica_",
    "replicate_",
    "report_",
    "rpl_",
    "server_",
    "skip_",
    "slave_",
    "source_",
    "sql_replica_",
    "sql_slave_",
    "ssl_",
    "strict_password_",
    "sync_master_",
    "sync_relay_",
    "sync_source_",
    "tls_",
    "wsrep",
];

/// Beginnings of an option of the command line or of a file that are no part of its name.
const MODIFIERS: [&str; 6] = ["loose_", "skip_", "disable_", "enable_", "maximum_", "autoset_"];

/// Names that are the beginning of another that is owned, and are a parameter of their own.
const WHOLE: [&str; 1] = ["general_log"];

/// Whether a tenant may not set it. The server takes a beginning for the whole name where no other begins like it, so that
/// beginnings of what is owned are owned too.
pub(crate) fn is_owned(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let begins = |beginnings: &[&str]| beginnings.iter().any(|beginning| name.starts_with(beginning));
    if WHOLE.contains(&name.as_str()) || name == "slow_query_log" || name == "log_slow_query" {
        return false;
    }
    let shortened = || OWNED.iter().chain(OWNED_BEGINNINGS).any(|owned| owned.starts_with(&name));
    OWNED.contains(&name.as_str()) || begins(OWNED_BEGINNINGS) || begins(&MODIFIERS) || shortened()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dangerous_is_owned() {
        for name in [
            "plugin_dir",
            "plugin-load",
            "plugin_load_add",
            "init_file",
            "init_connect",
            "secure_file_priv",
            "local_infile",
            "general_log_file",
            "slow_query_log_file",
            "log_error",
            "datadir",
            "tmpdir",
            "innodb_data_home_dir",
            "socket",
            "port",
            "bind_address",
            "skip_grant_tables",
            "SKIP-NETWORKING",
            "ssl_key",
            "tls_version",
            "require_secure_transport",
            "server_id",
            "log_bin",
            "read_only",
            "wsrep_provider",
            "wsrep_notify_cmd",
            "persisted_globals_load",
            "mysqlx",
            "admin_port",
            "loose_plugin_dir",
            "plugin_di",
            "dat",
            "sock",
            "innodb_force_recovery",
            "lower_case_table_names",
            "strict_password_validation",
            "proxy_protocol_networks",
            "extra_port",
        ] {
            assert!(is_owned(name), "{name}");
        }
    }

    #[test]
    fn what_tenants_tune_is_not() {
        for name in [
            "max_connections",
            "innodb_buffer_pool_size",
            "innodb_flush_log_at_trx_commit",
            "sync_binlog",
            "sql_mode",
            "wait_timeout",
            "long_query_time",
            "slow_query_log",
            "general_log",
            "max_allowed_packet",
            "character_set_server",
            "collation_server",
            "sort_buffer_size",
            "event_scheduler",
            "innodb_log_file_size",
            "tmp_table_size",
            "performance_schema",
        ] {
            assert!(!is_owned(name), "{name}");
        }
    }
}
