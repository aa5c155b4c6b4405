//! What can be set, asked of the server: its variables with type, range, allowed values, and whether they can be changed while it
//! runs.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use serde_json::Value;
use trove_strategy::{
    Applied, Command, EngineError, HostError, Kind, Parameter, ParameterType, Parameters, Settings, Site,
};

use crate::client::{Session, literal};
use crate::owned::is_owned;
use crate::{Flavour, Mysql, config};

/// The server has not that variable, cannot change it while it runs, or does not take the value.
const READ_ONLY: &str = "read only";

/// A variable of the running server.
#[derive(Clone, Debug)]
struct Variable {
    name: String,
    /// The server's own name of its type, in capital letters.
    kind: String,
    min: String,
    max: String,
    allowed: String,
    is_read_only: bool,
    default: String,
    value: String,
    /// Whether it has its default because nobody has set it.
    is_untouched: bool,
}

const MARIADB: &str = "select lower(variable_name), variable_type, coalesce(numeric_min_value, ''), \
                       coalesce(numeric_max_value, ''), coalesce(enum_value_list, ''), read_only = 'YES', \
                       coalesce(default_value, ''), coalesce(global_value, ''), global_value_origin in \
                       ('COMPILE-TIME', 'AUTO') from information_schema.system_variables where variable_scope <> \
                       'SESSION ONLY' and (command_line_argument is not null or variable_name in \
                       ('CHARACTER_SET_SERVER', 'COLLATION_SERVER'))";

/// The type is told by newer servers than the oldest that is supported: there it follows from the value.
const MYSQL: &str = "select g.variable_name, '', coalesce(i.min_value, ''), coalesce(i.max_value, ''), '', '', '', \
                     g.variable_value, i.variable_source = 'COMPILED' from performance_schema.global_variables g join \
                     performance_schema.variables_info i on i.variable_name = g.variable_name";

async fn variables(flavour: Flavour, session: &mut Session<'_>) -> Result<Vec<Variable>, EngineError> {
    let rows = session.rows("list parameters", flavour.either(MARIADB, MYSQL)).await?;
    let read = |row: Vec<String>| {
        let [name, kind, min, max, allowed, read_only, default, value, untouched] =
            <[String; 9]>::try_from(row).ok()?;
        let (is_read_only, is_untouched) = (read_only == "1", untouched == "1");
        Some(Variable { name, kind, min, max, allowed, is_read_only, default, value, is_untouched })
    };
    let mut all: Vec<Variable> = rows.into_iter().filter_map(read).filter(|known| !is_owned(&known.name)).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    if !flavour.is_mariadb() {
        for variable in &mut all {
            infer(session, variable).await?;
        }
    }
    Ok(all)
}

/// What MySQL does not say of a variable. Given the value that it has it says whether it can be changed.
async fn infer(session: &mut Session<'_>, variable: &mut Variable) -> Result<(), EngineError> {
    variable.kind = match variable.value.as_str() {
        "ON" | "OFF" => "BOOLEAN",
        text if text.parse::<i128>().is_ok() => "BIGINT",
        text if text.parse::<f64>().is_ok() => "DOUBLE",
        _ => "VARCHAR",
    }
    .to_owned();
    let name = &variable.name;
    let asked = session.run("list parameters", &format!("set global {name} = @@global.{name}")).await;
    variable.is_read_only = asked.is_err_and(|error| error.chain().contains(READ_ONLY));
    Ok(())
}

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
    if variable.kind == "ENUM" {
        parameter.allowed = variable.allowed.split(',').filter(|value| !value.is_empty()).map(str::to_owned).collect();
    }
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
        Ok(variables(self.flavour, &mut session).await?.into_iter().map(described).collect())
    }

    async fn values(&self, site: &Site) -> Result<Vec<(String, String)>, EngineError> {
        let mut session = self.session(site).await?;
        let all = variables(self.flavour, &mut session).await?;
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
            &["--validate-config", "--log-error-verbosity=2"]
        };
        for ask in asks {
            command = command.arg(*ask);
        }
        for (name, chosen) in values {
            command = command.arg(format!("--{name}={}", config::plain(chosen)));
        }
        match site.host.run(command).await {
            Ok(said) => {
                if let Some(adjusted) = said.stderr.lines().find(|line| line.contains(" adjusted to ")) {
                    return Err(refused(adjusted));
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
        for variable in variables(self.flavour, &mut session).await? {
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

fn refused(said: &str) -> EngineError {
    let said = said.split_once("] ").map_or(said, |(_, said)| said);
    EngineError::new(Kind::Invalid, format!("check the parameters: {}", said.trim()))
}

/// A beginning of a name is taken for the name where no other begins like it: only whole names are.
fn all_known(listed: &str, values: &BTreeMap<String, Value>) -> Result<(), EngineError> {
    let listed = listed.split_once("\n---").map_or("", |(_, listed)| listed);
    let known: BTreeSet<String> =
        listed.lines().filter_map(|line| Some(line.split_whitespace().next()?.replace('-', "_"))).collect();
    match values.keys().find(|name| !known.contains(&name.to_ascii_lowercase())) {
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
    fn only_whole_names_are_known() {
        let said = "text\n------- ----\nmax-connections    151\nsql-mode     X\n";
        let values = |name: &str| BTreeMap::from([(name.to_owned(), Value::from(1))]);
        assert!(all_known(said, &values("max_connections")).is_ok() && all_known(said, &values("SQL_MODE")).is_ok());
        assert!(all_known(said, &values("max_connection")).is_err());
    }
}
