//! The parameters that are not a tenant's to set.

/// What the agent owns, what backups and replicas will need, what would hand out a shell or the files of the server's account,
/// and what would make the agent's own work wait for others (a standby that nobody has).
const OWNED: &[&str] = &[
    "archive_cleanup_command",
    "archive_command",
    "archive_library",
    "archive_mode",
    "archive_timeout",
    "authentication_timeout",
    "bonjour",
    "bonjour_name",
    "cluster_name",
    "config_file",
    "data_directory",
    "data_sync_retry",
    "db_user_namespace",
    "dynamic_library_path",
    "dynamic_shared_memory_type",
    "event_source",
    "extension_control_path",
    "extension_destdir",
    "external_pid_file",
    "hba_file",
    "hot_standby",
    "ident_file",
    "jit_provider",
    "krb_caseins_users",
    "krb_server_keyfile",
    "listen_addresses",
    "local_preload_libraries",
    "log_destination",
    "log_directory",
    "log_file_mode",
    "log_filename",
    "logging_collector",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "oauth_validator_libraries",
    "password_encryption",
    "port",
    "post_auth_delay",
    "pre_auth_delay",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "restart_after_crash",
    "restore_command",
    "session_preload_libraries",
    "shared_memory_type",
    "shared_preload_libraries",
    "stats_temp_directory",
    "summarize_wal",
    "superuser_reserved_connections",
    "sync_replication_slots",
    "synchronized_standby_slots",
    "synchronous_standby_names",
    "syslog_facility",
    "syslog_ident",
    "temp_tablespaces",
    "unix_socket_directories",
    "unix_socket_group",
    "unix_socket_permissions",
    "wal_level",
    "wal_log_hints",
];

/// Whether a tenant may not set it. `include` and its kin are directives of the file, not parameters.
pub(crate) fn is_owned(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    OWNED.contains(&name.as_str()) || ["ssl", "recovery_target", "include"].iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_run_programs_touch_files_load_code_or_shut_the_agent_out_is_not_the_tenants() {
        let programs = ["archive_command", "archive_cleanup_command", "restore_command", "recovery_end_command"];
        let programs = programs.into_iter().chain(["ssl_passphrase_command"]);
        let files = ["config_file", "hba_file", "ident_file", "data_directory", "external_pid_file", "log_directory"];
        let files = files.into_iter().chain(["log_filename", "stats_temp_directory", "krb_server_keyfile"]);
        let files = files.chain(["ssl_key_file", "ssl_cert_file", "ssl_ca_file", "ssl_crl_file", "ssl_dh_params_file"]);
        let files = files.chain(["include", "include_dir", "include_if_exists", "unix_socket_directories"]);
        let code = ["shared_preload_libraries", "session_preload_libraries", "local_preload_libraries"];
        let code = code.into_iter().chain(["dynamic_library_path", "jit_provider", "archive_library"]);
        let code = code.chain(["extension_control_path", "extension_destdir", "oauth_validator_libraries"]);
        let agents = ["listen_addresses", "port", "superuser_reserved_connections", "authentication_timeout"];
        let agents = agents.into_iter().chain(["pre_auth_delay", "post_auth_delay", "synchronous_standby_names"]);
        let agents = agents.chain([
            "db_user_namespace",
            "password_encryption",
            "ssl",
            "ssl_min_protocol_version",
            "max_prepared_transactions",
        ]);
        let later = ["wal_level", "archive_mode", "summarize_wal", "max_wal_senders", "max_replication_slots"];
        let later = later.into_iter().chain([
            "max_slot_wal_keep_size",
            "hot_standby",
            "primary_conninfo",
            "recovery_target_time",
        ]);
        for name in programs.chain(files).chain(code).chain(agents).chain(later) {
            assert!(is_owned(name) && is_owned(&name.to_uppercase()), "{name}");
        }
        for name in ["work_mem", "max_connections", "shared_buffers", "log_statement", "timezone"] {
            assert!(!is_owned(name), "{name}");
        }
        assert!(OWNED.is_sorted(), "it is easier to read");
    }
}
