//! What can be set, asked of the server: its variables with type, range, allowed values, and whether they can be changed while it
//! runs.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::Value;
use trove_strategy::{
    Applied, Command, EngineError, HostError, Kind, Parameter, ParameterType, Parameters, Settings, Site,
};

use crate::client::{Session, literal};
use crate::variables::{self, Variable};
use crate::{Flavour, Mysql, config, options, undeclared};

/// The server cannot change it while it runs.
const READ_ONLY: &str = "read only";

fn described(variable: Variable) -> Parameter {
    let kind = match variable.kind.as_str() {
        "BOOLEAN" => ParameterType::Boolean,
        "DOUBLE" => ParameterType::Float,
        kind if kind.contains("INT") => ParameterType::Integer,
        _ => ParameterType::String,
    };
    let mut parameter = Parameter::new(variable.name, kind);
    if matches!(kind, ParameterType::Integer | ParameterType::Float) {
        (parameter.min, parameter.max) = (variable.min.parse().ok(), variable.max.parse().ok());
    }
    parameter.allowed = variable.allowed;
    parameter.default = Some(variable.default).filter(|default| !default.is_empty());
    parameter.restart_required = variable.is_read_only;
    parameter
}

/// Whether two values are the same to the server.
fn same(one: &str, other: &str) -> bool {
    let plain = |text: &str| match text.to_ascii_uppercase().as_str() {
        "TRUE" | "YES" | "1" => "ON".to_owned(),
        "FALSE" | "NO" | "0" => "OFF".to_owned(),
        text => text.to_owned(),
    };
    let numbers = one.parse::<f64>().ok().zip(other.parse::<f64>().ok());
    numbers.map_or_else(|| plain(one) == plain(other), |(one, other)| one == other)
}

/// A value in SQL.
fn in_sql(variable: &Variable, value: &str) -> String {
    let is_number = variable.kind.contains("INT") || variable.kind == "DOUBLE";
    if is_number && value.parse::<f64>().is_ok() { value.to_owned() } else { text_in_sql(value) }
}

/// A text, which has to be one to the server and not a number of these digits.
fn text_in_sql(value: &str) -> String {
    format!("convert({} using utf8mb4)", literal(value))
}

#[async_trait]
impl Parameters for Mysql {
    async fn describe(&self, site: &Site) -> Result<Vec<Parameter>, EngineError> {
        let mut session = self.session(site).await?;
        let mut all = variables::all_with_read_only(self.flavour, site, &mut session).await?;
        if !self.flavour.is_mariadb() {
            undeclared::find_allowed(site, &mut session, &mut all).await?;
        }
        Ok(all.into_iter().map(described).collect())
    }

    async fn values(&self, site: &Site) -> Result<Vec<(String, String)>, EngineError> {
        let mut session = self.session(site).await?;
        let all = variables::all(self.flavour, site, &mut session).await?;
        Ok(all.into_iter().map(|variable| (variable.name, variable.value)).collect())
    }

    /// The server program itself says what it thinks of the values, and ends.
    async fn check(&self, site: &Site, values: &BTreeMap<String, Value>) -> Result<(), EngineError> {
        for (name, chosen) in values {
            config::check(name, chosen)?;
        }
        let mut command = Command::engine(self.flavour.program(site)).arg("--no-defaults");
        let asks: &[&str] = if self.flavour.is_mariadb() {
            &["--help", "--verbose"]
        } else {
            // The directory that Debian's server has by itself may not be there.
            &["--validate-config", "--log-error-verbosity=2", "--secure-file-priv=NULL"]
        };
        for ask in asks {
            command = command.arg(*ask);
        }
        for (name, chosen) in values {
            command = command.arg(format!("--{name}={}", config::plain(chosen)));
        }
        match site.host.run(command).await {
            Ok(said) => {
                // MySQL says of some that it knows no such thing, and that all is well.
                let is_wrong = |line: &&str| {
                    line.contains(" adjusted to ") || !self.flavour.is_mariadb() && line.contains("[ERROR]")
                };
                if let Some(wrong) = said.stderr.lines().find(is_wrong) {
                    return Err(refused(wrong));
                }
                if self.flavour.is_mariadb() { all_known(&said.stdout, values) } else { Ok(()) }
            }
            Err(HostError::Failed { stderr, .. }) => {
                let said = stderr.lines().find(|line| line.contains("[ERROR]")).or(stderr.lines().next());
                Err(refused(said.unwrap_or_default()))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn apply(&self, site: &Site, settings: &Settings) -> Result<BTreeMap<String, Applied>, EngineError> {
        let attempt = "apply the parameters";
        let wanted = config::wanted(self.flavour, site, settings)?;
        let mut session = self.session(site).await?;
        let mut became = BTreeMap::new();
        for variable in variables::all_with_read_only(self.flavour, site, &mut session).await? {
            let name = &variable.name;
            let chosen = wanted.get(name);
            let applied = match chosen {
                Some(value) if same(value, &variable.value) => Applied::Live,
                // What nobody chooses any more goes back to the server's own value.
                None if variable.is_untouched || same(&variable.default, &variable.value) => continue,
                _ if variable.is_read_only => Applied::NeedsRestart,
                None => set(self.flavour, &mut session, attempt, name, "default").await?,
                Some(value) => set(self.flavour, &mut session, attempt, name, &in_sql(&variable, value)).await?,
            };
            if chosen.is_some() || applied == Applied::NeedsRestart {
                became.insert(name.clone(), applied);
            }
        }
        let unknown = || Applied::Refused("the server has no such variable".to_owned());
        let of = |name: &String| (name.clone(), became.remove(&name.to_ascii_lowercase()).unwrap_or_else(unknown));
        let mut all: BTreeMap<String, Applied> = settings.parameters.keys().map(of).collect();
        all.extend(became.into_iter().filter(|(_, applied)| *applied == Applied::NeedsRestart));
        Ok(all)
    }
}

/// The words of a line of the server's, behind its time and its kinds in brackets.
fn refused(said: &str) -> EngineError {
    let mut said = said.split_once("] ").map_or(said, |(_, said)| said).trim();
    while let Some((_, words)) = said.strip_prefix('[').and_then(|said| said.split_once("] ")) {
        said = words;
    }
    EngineError::new(Kind::Invalid, format!("check the parameters: {said}"))
}

/// A beginning of a name is taken for the name where no other begins like it: only whole names are. MySQL takes no other.
fn all_known(said: &str, values: &BTreeMap<String, Value>) -> Result<(), EngineError> {
    let known = options::listed(said);
    match values.keys().find(|name| !known.contains_key(&name.to_ascii_lowercase())) {
        Some(name) => Err(refused(&format!("the server has no parameter {name:?}"))),
        None => Ok(()),
    }
}

/// Sets a variable. The server cuts numbers to their range with a warning, unless it is told to be strict.
async fn set(
    flavour: Flavour,
    session: &mut Session<'_>,
    attempt: &str,
    name: &str,
    value: &str,
) -> Result<Applied, EngineError> {
    let strict = if flavour.is_mariadb() { "set statement sql_mode = 'STRICT_ALL_TABLES' for " } else { "" };
    match session.run(attempt, &format!("{strict}set global {name} = {value}")).await {
        Ok(()) => Ok(Applied::Live),
        // `Busy`: it can be changed only where the server began with it, as `max_user_connections`.
        Err(error) if error.kind() == Kind::Busy || error.chain().contains(READ_ONLY) => Ok(Applied::NeedsRestart),
        Err(error) if error.kind() == Kind::Transient => Err(error),
        Err(error) => Ok(Applied::Refused(error.chain())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_as_the_server_means_them() {
        assert!(same("ON", "1") && same("off", "OFF") && same("1048576", "1048576") && same("1.0", "1"));
        assert!(!same("ON", "OFF") && !same("1", "2") && !same("a", "b"));
    }

    #[test]
    fn what_the_server_says_against_a_value_is_shown_without_time_and_kinds() {
        let words = |said: &str| refused(said).chain();
        let mysql = words("2026-11-29T00:13:57Z 0 [ERROR] [MY-000067] [Server] unknown variable 'x=[a] b'.");
        assert_eq!(mysql, "check the parameters: unknown variable 'x=[a] b'.");
        let mariadb = words("2026-11-29  0:13:57 0 [Warning] option 'x': unsigned value 0 adjusted to 10");
        assert_eq!(mariadb, "check the parameters: option 'x': unsigned value 0 adjusted to 10");
    }

    #[test]
    fn only_whole_names_are_known() {
        let said = "text\n------- ----\nmax-connections    151\nsql-mode     X\n";
        let values = |name: &str| BTreeMap::from([(name.to_owned(), Value::from(1))]);
        assert!(all_known(said, &values("max_connections")).is_ok() && all_known(said, &values("SQL_MODE")).is_ok());
        assert!(all_known(said, &values("max_connection")).is_err());
    }
}
