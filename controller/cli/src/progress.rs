//! Live progress of an operation: a line a step, on a terminal with the running one alive.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::output::{complain, plain};

/// Draws the steps of one operation as they come.
pub(crate) struct Progress {
    /// Steps that were told already, by name and status.
    told: Vec<(String, String)>,
    bar: Option<ProgressBar>,
    quiet: bool,
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `install_engine` as a person reads it.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

impl Progress {
    /// Nothing told yet. `title` is said first.
    pub(crate) fn new(title: &str, quiet: bool) -> Self {
        if !quiet {
            complain(title);
        }
        let live = !quiet && std::io::stderr().is_terminal();
        let bar = live.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { told: Vec::new(), bar, quiet }
    }

    fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => complain(line),
        }
    }

    /// Tells what is new.
    pub(crate) fn show(&mut self, operation: &Value) {
        let steps = operation["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
        let (total, undoing) = (steps.len(), operation["status"] == "undoing");
        for (n, step) in steps.iter().enumerate() {
            let (name, status) = (text(&step["name"]), text(&step["status"]));
            let mark = match status {
                "done" => "✓",
                "failed" => "✗",
                "undone" => "↺",
                "running" => "…",
                _ => continue,
            };
            let key = (name.to_owned(), status.to_owned());
            if status == "running" {
                let unit = text(&step["progress"]["unit"]);
                let stage = if unit.is_empty() { String::new() } else { format!(" ({unit})") };
                let again = step["error"].as_str().map(|why| format!(", trying again: {why}")).unwrap_or_default();
                let message = plain(&format!("[{}/{total}] {}{stage}{again}", n + 1, words(name)));
                match &self.bar {
                    Some(bar) => bar.set_message(message),
                    None if !self.quiet && !self.told.contains(&key) => complain(&format!("  {mark} {message}")),
                    None => {}
                }
                self.told.push(key);
            } else if !self.told.contains(&key) {
                if !self.quiet {
                    self.line(&format!("  {mark} [{}/{total}] {}", n + 1, words(name)));
                }
                self.told.push(key);
            }
        }
        if undoing && let Some(bar) = &self.bar {
            bar.set_message("undoing what was done");
        }
    }

    /// Takes the live line away.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
