//! What MySQL's server has no table of: which variables are options, their defaults, which can be changed while it runs, and the
//! values of enumerations. It is asked in ways that change nothing.

use trove_strategy::{EngineError, Site};

use crate::client::Session;
use crate::variables::Variable;
use crate::{Flavour, options};

const ATTEMPT: &str = "list parameters";

/// Newer servers than the oldest that is supported tell type and scope. There the type follows from the value.
const METADATA: &str = "select count(*) from information_schema.tables where table_schema = 'performance_schema' and \
                        table_name = 'variables_metadata'";

/// No enumeration has more values.
const MOST: usize = 64;

/// All variables of the server that are options, too: the others cannot stand in its file.
pub(crate) async fn all(site: &Site, session: &mut Session<'_>) -> Result<Vec<Variable>, EngineError> {
    let defaults = options::ask(Flavour::MySql, site, &[]).await?;
    let is_told = session.value(ATTEMPT, METADATA).await?.as_deref() == Some("1");
    let (columns, join) = if is_told {
        let columns = "coalesce(m.data_type, ''), coalesce(m.min_value, ''), coalesce(m.max_value, ''), \
                       m.variable_scope = 'SESSION'";
        (columns, "left join performance_schema.variables_metadata m on m.variable_name = g.variable_name")
    } else {
        ("'', coalesce(i.min_value, ''), coalesce(i.max_value, ''), 0", "")
    };
    let sql = format!(
        "select g.variable_name, {columns}, g.variable_value, i.variable_source = 'COMPILED' from \
         performance_schema.global_variables g join performance_schema.variables_info i on i.variable_name = \
         g.variable_name {join}"
    );
    let read = |row: Vec<String>| {
        let [name, kind, min, max, sessions, value, untouched] = <[String; 7]>::try_from(row).ok()?;
        let default = defaults.get(&name)?.clone();
        let kind = kind_of(&kind, &value).to_owned();
        // The greatest of a number with a fraction is its bits, taken for a whole one; of some there is none.
        let max = if min == max || kind == "DOUBLE" && max.len() > 15 { String::new() } else { max };
        let is_untouched = untouched == "1";
        // The server may choose by the machine what an option has by itself.
        let default = if is_untouched { value.clone() } else { default };
        let is_sessions = sessions == "1";
        Some(Variable { name, kind, min, max, is_sessions, default, value, is_untouched, ..Variable::default() })
    };
    Ok(session.rows(ATTEMPT, &sql).await?.into_iter().filter_map(read).collect())
}

/// The type, as MariaDB names it.
fn kind_of(told: &str, value: &str) -> &'static str {
    match told {
        "Boolean" => "BOOLEAN",
        "Integer" => "BIGINT",
        "Numeric" => "DOUBLE",
        "Enumeration" => "ENUM",
        "" if ["ON", "OFF"].contains(&value) => "BOOLEAN",
        "" if value.parse::<i128>().is_ok() => "BIGINT",
        "" if value.parse::<f64>().is_ok() => "DOUBLE",
        _ => "VARCHAR",
    }
}

/// A statement that sets two variables sets none where one of them cannot be set, and the server names the first such: `port`
/// never can.
pub(crate) async fn find_read_only(session: &mut Session<'_>, all: &mut [Variable]) -> Result<(), EngineError> {
    for variable in all {
        let sql = format!("set global {} = default, global port = 1", variable.name);
        let words = session.refusal(ATTEMPT, &sql).await?.unwrap_or_default();
        variable.is_read_only = !words.contains("'port'");
    }
    Ok(())
}

/// The values of enumerations: they have numbers.
pub(crate) async fn find_allowed(
    site: &Site,
    session: &mut Session<'_>,
    all: &mut [Variable],
) -> Result<(), EngineError> {
    let mut others = Vec::new();
    for variable in all.iter_mut().filter(|variable| variable.kind == "ENUM") {
        if variable.is_sessions {
            variable.allowed = in_session(session, &variable.name).await?;
        } else if !variable.is_read_only {
            let count = count(session, &variable.name).await?;
            others.push((count, variable));
        }
    }
    // The program says what the option is that has a number.
    for number in 0..others.iter().map(|(count, _)| *count).max().unwrap_or_default() {
        let mut asked: Vec<&mut Variable> =
            others.iter_mut().filter(|(count, _)| number < *count).map(|(_, variable)| &mut **variable).collect();
        let given: Vec<(String, String)> =
            asked.iter().map(|variable| (variable.name.clone(), number.to_string())).collect();
        let named = options::ask(Flavour::MySql, site, &given).await?;
        for variable in &mut asked {
            variable.allowed.extend(named.get(&variable.name).cloned());
        }
    }
    Ok(())
}

/// By setting one after the other in this session, which goes back to the server's.
async fn in_session(session: &mut Session<'_>, name: &str) -> Result<Vec<String>, EngineError> {
    let mut allowed = Vec::new();
    for number in 0..MOST {
        if session.refusal(ATTEMPT, &format!("set session {name} = {number}")).await?.is_some() {
            break;
        }
        allowed.extend(session.value(ATTEMPT, &format!("select @@session.{name}")).await?);
    }
    session.run(ATTEMPT, &format!("set session {name} = @@global.{name}")).await?;
    Ok(allowed)
}

/// How many values there are, again beside one that cannot be set: values are looked at in their order before any is set.
async fn count(session: &mut Session<'_>, name: &str) -> Result<usize, EngineError> {
    for number in 0..MOST {
        let sql = format!("set global {name} = {number}, global transaction_isolation = 'none'");
        let words = session.refusal(ATTEMPT, &sql).await?.unwrap_or_default();
        if !words.contains("'transaction_isolation'") {
            return Ok(number);
        }
    }
    Ok(MOST)
}
