//! What is printed, and how: tables that fit, JSON, YAML.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::presets::{NOTHING, UTF8_HORIZONTAL_ONLY};
use comfy_table::{ContentArrangement, Table, TableStyle};
use serde_json::Value;

use crate::error::{Failure, Result};

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// The API's own objects.
    Json,
    /// The same.
    Yaml,
}

/// The printer.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    /// How.
    pub(crate) format: Format,
    /// Ids or names alone, and no remarks.
    pub(crate) quiet: bool,
}

/// A column: its head, and the path of its value, `flavor.id`.
pub(crate) type Column = (&'static str, &'static str);

fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(object, |value, part| match part.parse::<usize>() {
        Ok(n) => &value[n],
        Err(_) => &value[part],
    })
}

/// A text that others chose, without what a terminal would obey, such as marks that turn the order of letters around.
pub(crate) fn plain(text: &str) -> String {
    text.split('\n').map(one_line).collect::<Vec<_>>().join("\n")
}

/// The same, and on one line.
fn one_line(text: &str) -> String {
    let is_obeyed = |c: char| {
        let turns =
            matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        turns || c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
    };
    text.chars().map(|c| if is_obeyed(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// A value as a cell has it.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => one_line(text),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Object(object) => match object.get("name").or_else(|| object.get("id")) {
            Some(name) => cell(name),
            None => value.to_string(),
        },
        other => other.to_string(),
    }
}

impl Output {
    /// Many objects. Quiet prints the first column's values, a line each.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(crate) fn list(self, items: &[Value], columns: &[Column]) -> Result<()> {
        if self.quiet {
            let id = columns.first().map_or("id", |(_, path)| *path);
            return print(&items.iter().map(|item| cell(at(item, id)) + "\n").collect::<String>());
        }
        match self.format {
            Format::Table => {
                let mut table = table(UTF8_HORIZONTAL_ONLY);
                table.set_header(columns.iter().map(|(head, _)| *head));
                for item in items {
                    table.add_row(columns.iter().map(|(_, path)| cell(at(item, path))));
                }
                print(&format!("{table}\n"))
            }
            Format::Json => print(&(pretty(&Value::from(items.to_vec())) + "\n")),
            Format::Yaml => print(&yaml(&Value::from(items.to_vec()))?),
        }
    }

    /// One object, a field a line.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(crate) fn one(self, item: &Value, fields: &[Column]) -> Result<()> {
        if self.quiet {
            return print(&(cell(at(item, fields.first().map_or("id", |(_, path)| *path))) + "\n"));
        }
        match self.format {
            Format::Table => {
                let mut table = table(NOTHING);
                for (head, path) in fields {
                    let value = at(item, path);
                    if !value.is_null() {
                        table.add_row([(*head).to_owned(), cell(value)]);
                    }
                }
                print(&format!("{table}\n"))
            }
            Format::Json => print(&(pretty(item) + "\n")),
            Format::Yaml => print(&yaml(item)?),
        }
    }

    /// A remark for a person, to standard error; nothing when quiet.
    pub(crate) fn remark(self, text: &str) {
        if !self.quiet {
            complain(text);
        }
    }
}

fn pretty(value: &Value) -> String {
    // A value that was parsed can be written.
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn yaml(value: &Value) -> Result<String> {
    serde_yaml_ng::to_string(value).map_err(|error| Failure::failed(format!("Write YAML: {error}.")))
}

fn table(style: TableStyle) -> Table {
    let mut table = Table::new();
    table.load_style(style);
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

/// Prints to standard output.
///
/// # Errors
/// It is closed.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout();
    let done = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    done.map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::Closed,
        _ => Failure::failed(format!("Print: {error}.")),
    })
}

/// Says something to standard error.
pub(crate) fn complain(text: &str) {
    // Nothing can be done about a broken standard error.
    let _ = writeln!(std::io::stderr(), "{}", plain(text));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_show_what_a_person_looks_for() {
        let item = json!({"flavor": {"id": "1"}, "ip": ["a", "b"], "databases": [{"name": "x"}], "none": null});
        assert_eq!(cell(at(&item, "flavor.id")), "1");
        assert_eq!(cell(at(&item, "flavor")), "1");
        assert_eq!(cell(at(&item, "ip")), "a, b");
        assert_eq!(cell(at(&item, "ip.1")), "b");
        assert_eq!(cell(at(&item, "databases")), "x");
        assert_eq!(cell(at(&item, "none")), "-");
    }

    #[test]
    fn a_terminal_obeys_nothing_that_is_shown() {
        assert_eq!(cell(&json!("\u{1b}[31mred\u{7}\u{9b}2J")), "\\u{1b}[31mred\\u{7}\\u{9b}2J");
        assert_eq!(cell(&json!("j\u{fc}rgen\nline")), "j\u{fc}rgen\\nline");
        assert_eq!(cell(&json!("safe\u{202e}gnp.exe\u{2066}")), "safe\\u{202e}gnp.exe\\u{2066}");
        assert_eq!(plain("two\nlines\r\u{200f}"), "two\nlines\\r\\u{200f}");
    }
}
