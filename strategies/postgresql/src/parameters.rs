//! What can be set, asked of the function behind `pg_settings` (manual, 54.24): a superuser of a tenant's can replace the
//! view.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::Value;
use trove_strategy::{
    Applied, Command, EngineError, HostError, Kind, Parameter, ParameterType, Parameters, Settings, Site,
};

use crate::Postgresql;
use crate::client::{HOME, Session, sql_literal, within};
use crate::{config, engine};

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

/// What has another value in the files, or none any more, and cannot be changed while the server runs.
const PENDING: &str = "select name from pg_show_all_settings() where pending_restart";

/// What the agent's session has set for itself is not what a tenant's has.
const LISTED: &str = "select name, vartype, unit, min_val, max_val, array_to_string(enumvals, ','), boot_val, context, \
                      case source when 'client' then coalesce((select f.setting from pg_show_all_file_settings() f \
                      where lower(f.name) = lower(s.name) and f.error is null order by f.seqno desc limit 1), boot_val) \
                      else setting end from pg_show_all_settings() s where context <> 'internal' and name not like '%.%' \
                       order by name collate \"C\"";

async fn listed(site: &Site) -> Result<Vec<Vec<String>>, EngineError> {
    let rows = Session::open(site, HOME).await?.rows("list parameters", LISTED).await?;
    Ok(rows.into_iter().filter(|row| row.first().is_some_and(|name| !is_owned(name))).collect())
}

fn parameter(row: Vec<String>) -> Option<Parameter> {
    let [name, vartype, unit, min, max, allowed, default, context, _] = <[String; 9]>::try_from(row).ok()?;
    let kind = match vartype.as_str() {
        "bool" => ParameterType::Boolean,
        "integer" => ParameterType::Integer,
        "real" => ParameterType::Float,
        _ => ParameterType::String,
    };
    let mut parameter = Parameter::new(name, kind);
    parameter.unit = Some(unit).filter(|unit| !unit.is_empty());
    parameter.min = min.parse().ok();
    parameter.max = max.parse().ok();
    parameter.allowed = allowed.split(',').filter(|value| !value.is_empty()).map(str::to_owned).collect();
    parameter.default = Some(default).filter(|default| !default.is_empty());
    parameter.restart_required = context == "postmaster";
    Some(parameter)
}

#[async_trait]
impl Parameters for Postgresql {
    async fn describe(&self, site: &Site) -> Result<Vec<Parameter>, EngineError> {
        Ok(listed(site).await?.into_iter().filter_map(parameter).collect())
    }

    async fn values(&self, site: &Site) -> Result<Vec<(String, String)>, EngineError> {
        let value = |mut row: Vec<String>| {
            let value = row.pop()?;
            Some((row.into_iter().next()?, value))
        };
        Ok(listed(site).await?.into_iter().filter_map(value).collect())
    }

    /// The server program itself says what it thinks of a value, and prints another one instead of starting (manual,
    /// `postgres -C`).
    async fn check(&self, site: &Site, values: &BTreeMap<String, Value>) -> Result<(), EngineError> {
        for (name, chosen) in values {
            config::check(name, chosen)?;
        }
        let mut command = Command::engine(engine::program(site)).arg("-D").arg(site.data.to_string_lossy());
        for (name, chosen) in values {
            command = command.arg("-c").arg(format!("{name}={}", config::plain(chosen)));
        }
        match site.host.run(command.arg("-C").arg("port")).await {
            Err(HostError::Failed { stderr, .. }) => {
                let said = stderr.lines().find_map(|line| line.split_once("FATAL:")).map(|(_, said)| said.trim());
                let said = said.or(stderr.lines().next()).unwrap_or_default();
                Err(EngineError::new(Kind::Invalid, format!("check the parameters: {said}")))
            }
            done => Ok(done.map(|_| ())?),
        }
    }

    async fn apply(&self, site: &Site, settings: &Settings) -> Result<BTreeMap<String, Applied>, EngineError> {
        let ask = async {
            let home = Session::open(site, HOME).await?;
            let rows = home.rows("check the configuration", &written(site)).await?;
            engine::take_up(&home).await?;
            let left = home.rows("look for what waits for a restart", PENDING).await?;
            Ok((rows, left))
        };
        let (rows, left) = within(engine::RELOAD, "check the configuration", ask).await?;
        let mut applied = BTreeMap::new();
        for row in rows {
            let [name, ours, taken, error, context] = <[String; 5]>::try_from(row)
                .map_err(|_| EngineError::new(Kind::Fatal, "check the configuration: a row has other columns"))?;
            let became = match (ours.as_str(), taken.as_str(), context.as_str()) {
                ("t", "t", _) => Applied::Live,
                ("t", _, "postmaster") => Applied::NeedsRestart,
                ("t", ..) => Applied::Refused(error),
                _ => Applied::Refused("ALTER SYSTEM has set it, which wins until ALTER SYSTEM RESET".to_owned()),
            };
            applied.insert(name, became);
        }
        let unread = || Applied::Refused("the server has not read it".to_owned());
        let of = |name: &String| (name.clone(), applied.remove(&name.to_ascii_lowercase()).unwrap_or_else(unread));
        let mut became: BTreeMap<String, Applied> = settings.parameters.keys().map(of).collect();
        for name in left.into_iter().flatten().filter(|name| !is_owned(name)) {
            if !settings.parameters.keys().any(|known| known.eq_ignore_ascii_case(&name)) {
                became.insert(name, Applied::NeedsRestart);
            }
        }
        Ok(became)
    }
}

/// What the files say, in their order: of a name that stands in them twice the last line counts. A tenant's superuser writes
/// into the last of them.
fn written(site: &Site) -> String {
    let main = sql_literal(&site.path(&config::Files::new().main).to_string_lossy());
    format!(
        "select lower(f.name), f.sourcefile = {main}, f.applied, coalesce(f.error, ''), coalesce(s.context, '') \
         from pg_show_all_file_settings() f left join pg_show_all_settings() s on lower(s.name) = lower(f.name) \
         order by f.seqno"
    )
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
        let agents =
            agents.chain(["password_encryption", "ssl", "ssl_min_protocol_version", "max_prepared_transactions"]);
        let later = ["wal_level", "archive_mode", "summarize_wal", "max_wal_senders", "max_replication_slots"];
        let later = later.into_iter().chain(["hot_standby", "primary_conninfo", "recovery_target_time"]);
        for name in programs.chain(files).chain(code).chain(agents).chain(later) {
            assert!(is_owned(name) && is_owned(&name.to_uppercase()), "{name}");
        }
        for name in ["work_mem", "max_connections", "shared_buffers", "log_statement", "timezone"] {
            assert!(!is_owned(name), "{name}");
        }
        assert!(OWNED.is_sorted(), "it is easier to read");
    }
}
