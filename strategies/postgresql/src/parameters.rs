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

/// What the agent owns, or what would hand out a shell or the files of the server's account.
const OWNED: &[&str] = &[
    "archive_cleanup_command",
    "archive_command",
    "archive_library",
    "archive_mode",
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
    "external_pid_file",
    "hba_file",
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
    "password_encryption",
    "port",
    "post_auth_delay",
    "pre_auth_delay",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "restart_after_crash",
    "restore_command",
    "session_preload_libraries",
    "shared_memory_type",
    "shared_preload_libraries",
    "stats_temp_directory",
    "superuser_reserved_connections",
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

const LISTED: &str = "select name, vartype, unit, min_val, max_val, array_to_string(enumvals, ','), boot_val, context, \
                      setting from pg_show_all_settings() where context <> 'internal' and name not like '%.%' \
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
            Ok(rows)
        };
        let mut applied = BTreeMap::new();
        for row in within(engine::RELOAD, "check the configuration", ask).await? {
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
        Ok(settings.parameters.keys().map(of).collect())
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
