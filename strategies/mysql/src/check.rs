//! The check of restored data on the running server: `CHECK TABLE` of every table, which is what `mariadb-check` asks for.
//!
//! Source: MariaDB's manual, CHECK TABLE and mariadb-check.

use std::time::Duration;

use trove_strategy::{EngineError, Kind, Site};

use crate::Mysql;
use crate::client::identifier;

/// The job's own deadline comes first.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// So many damaged tables are named.
const NAMED: usize = 5;
/// As much is told of one, bytes.
const WORDS: usize = 300;
const CHECK: &str = "check the restored data";
/// Tables with data of their own: no views, and not what the server makes up when it is asked.
const TABLES: &str = "select table_schema, table_name from information_schema.tables \
     where table_type in ('BASE TABLE', 'SYSTEM VERSIONED', 'SEQUENCE') \
     and table_schema not in ('information_schema', 'performance_schema', 'sys') order by 1, 2";

/// Checks all tables.
///
/// # Errors
/// [`Kind::Invalid`]: names the first tables that are damaged.
pub(crate) async fn check(mysql: &Mysql, site: &Site) -> Result<(), EngineError> {
    let mut session = mysql.session(site).await?;
    let mut found = Vec::new();
    for table in session.rows(CHECK, TABLES).await? {
        let Ok([database, name]) = <[String; 2]>::try_from(table) else { continue };
        let sql = format!("check table {}.{}", identifier(&database), identifier(&name));
        let said = session.rows_within(LIMIT, CHECK, &sql).await?;
        if let Some(what) = damage(&said) {
            let what = &what[..what.floor_char_boundary(WORDS)];
            found.push(format!("table {database}.{name}: {what}"));
        }
        if found.len() == NAMED {
            break;
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(EngineError::new(Kind::Invalid, format!("{CHECK}: {}", found.join("; "))))
}

/// What is wrong, of rows of table, verb, kind of message, and message. Warnings are no damage: a log table that was open says one.
fn damage<'a>(said: &'a [Vec<String>]) -> Option<&'a str> {
    let words = |row: &'a Vec<String>| {
        let [_, _, kind, text] = row.as_slice() else { return None };
        Some((kind.to_ascii_lowercase(), text.as_str()))
    };
    let mut all = said.iter().filter_map(words);
    let is_sound = |text: &str| ["OK", "Table is already up to date"].contains(&text);
    let error = all.clone().find(|(kind, _)| kind == "error");
    let end = all.find(|(kind, text)| kind == "status" && !is_sound(text));
    error.or(end).map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(all: &[(&str, &str)]) -> Vec<Vec<String>> {
        let row = |(kind, text): &(&str, &str)| ["d.t", "check", kind, text].map(str::to_owned).to_vec();
        all.iter().map(row).collect()
    }

    #[test]
    fn errors_and_bad_ends_are_damage_and_warnings_are_not() {
        assert_eq!(damage(&rows(&[("status", "OK")])), None);
        assert_eq!(damage(&rows(&[("warning", "1 client is using it"), ("status", "OK")])), None);
        assert_eq!(damage(&rows(&[("note", "The storage engine for the table doesn't support check")])), None);
        assert_eq!(damage(&rows(&[("status", "Operation failed")])), Some("Operation failed"));
        let both = rows(&[("Error", "Incorrect information in file"), ("status", "Corrupt")]);
        assert_eq!(damage(&both), Some("Incorrect information in file"));
        assert_eq!(damage(&rows(&[("warning", "a"), ("status", "Corrupt")])), Some("Corrupt"));
    }
}
