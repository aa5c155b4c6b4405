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
use crate::owned::is_owned;
use crate::{config, engine};

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
