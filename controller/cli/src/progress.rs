//! Live progress of an operation: a line a step, on a terminal with the running one alive.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::output::{complain, plain};

/// Draws the steps of one operation as they come.
pub(crate) struct Progress {
    /// Steps that were told already, by name and status.
    told: Vec<(String, String)>,
    /// The running step, the bytes that it had moved when they were first seen, and when that was.
    moving: Option<(String, u64, Instant)>,
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
        Self { told: Vec::new(), moving: None, bar, quiet }
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
                let amount = self.amount(name, &step["progress"], Instant::now());
                let stage = if amount.is_empty() { String::new() } else { format!(" ({amount})") };
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

    /// How far a running step is: `512.00 MiB of 2.00 GiB, 48.00 MiB/s, 32 seconds left`, as far as that is known, or the name
    /// of its stage.
    fn amount(&mut self, step: &str, progress: &Value, now: Instant) -> String {
        let unit = text(&progress["unit"]);
        let (Some(done), "bytes") = (progress["done"].as_u64(), unit) else { return unit.to_owned() };
        let total = progress["total"].as_u64();
        // A step that is tried again begins anew.
        let first = self.moving.take().filter(|(of, from, _)| of == step && *from <= done);
        let (_, from, since) = self.moving.insert(first.unwrap_or_else(|| (step.to_owned(), done, now)));
        let mut parts = vec![match total {
            Some(total) => format!("{} of {}", BinaryBytes(done), BinaryBytes(total)),
            None => BinaryBytes(done).to_string(),
        }];
        let rate = u128::from(done - *from) * 1000 / now.duration_since(*since).as_millis().max(1);
        if let Some(rate) = u64::try_from(rate).ok().filter(|rate| *rate > 0) {
            parts.push(format!("{}/s", BinaryBytes(rate)));
            if let Some(left) = total.and_then(|total| total.checked_sub(done)) {
                parts.push(format!("{} left", HumanDuration(Duration::from_secs(left.div_ceil(rate)))));
            }
        }
        parts.join(", ")
    }

    /// Takes the live line away.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bytes_have_a_rate_and_a_time_left_and_a_stage_its_name() {
        let mut progress = Progress { told: Vec::new(), moving: None, bar: None, quiet: true };
        let begin = Instant::now();
        let mut amount = |step: &str, progress_of: Value, seconds| {
            progress.amount(step, &progress_of, begin + Duration::from_secs(seconds))
        };
        let bytes = |done: u64, total: Option<u64>| json!({"done": done, "total": total, "unit": "bytes"});
        assert_eq!(
            amount("take", json!({"done": null, "total": null, "unit": "waits for the engine"}), 0),
            "waits for the engine"
        );
        assert_eq!(amount("take", json!(null), 0), "");
        assert_eq!(amount("take", bytes(1 << 20, None), 0), "1.00 MiB");
        assert_eq!(amount("take", bytes(5 << 20, None), 4), "5.00 MiB, 1.00 MiB/s");
        assert_eq!(amount("restore", bytes(1 << 30, Some(2 << 30)), 5), "1.00 GiB of 2.00 GiB");
        let after = "1.25 GiB of 2.00 GiB, 64.00 MiB/s, 12 seconds left";
        assert_eq!(amount("restore", bytes(5 << 28, Some(2 << 30)), 9), after);
        assert_eq!(amount("restore", bytes(0, Some(2 << 30)), 10), "0 B of 2.00 GiB", "begun anew");
    }
}
