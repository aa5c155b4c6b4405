//! The table of results: each figure with its target, OpenStack Trove's figure, and how it was measured.

use std::io::Write as _;

/// A row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Name of the figure.
    pub(crate) figure: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// Greatest acceptable value, if there is one.
    pub(crate) target: Option<f64>,
    /// The figure of OpenStack Trove 26 on a similar machine, if measured.
    pub(crate) trove: &'static str,
    /// Remarks.
    pub(crate) aside: String,
    /// How it was measured.
    pub(crate) how: String,
}

impl Row {
    /// A row without a target.
    pub(crate) fn new(figure: impl Into<String>, value: f64, unit: &'static str, how: impl Into<String>) -> Self {
        let (figure, how) = (figure.into(), how.into());
        Self { figure, value, unit, target: None, trove: "", aside: String::new(), how }
    }

    /// Sets the target.
    pub(crate) fn at_most(mut self, target: f64) -> Self {
        self.target = Some(target);
        self
    }

    fn is_good(&self) -> bool {
        self.target.is_none_or(|target| self.value <= target)
    }

    fn cells(&self) -> [String; 7] {
        let verdict = match self.target {
            None => "",
            Some(_) if self.is_good() => "ok",
            Some(_) => "MISSED",
        };
        [
            self.figure.clone(),
            format!("{} {}", number(self.value), self.unit),
            self.target.map(|target| format!("<= {}", number(target))).unwrap_or_default(),
            verdict.to_owned(),
            self.trove.to_owned(),
            self.aside.clone(),
            self.how.clone(),
        ]
    }
}

/// Formats a number with three significant digits.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// All rows.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    /// Adds a row and prints it at once.
    pub(crate) fn add(&mut self, row: Row) {
        let [figure, value, target, verdict, _, aside, _] = row.cells();
        note(&format!("{figure}: {value} {target} {verdict} {aside}"));
        self.0.push(row);
    }

    /// Whether all targets were met.
    pub(crate) fn is_good(&self) -> bool {
        self.0.iter().all(Row::is_good)
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        let head = ["figure", "measured", "target", "", "Trove 26", "beside", "how"].map(str::to_owned);
        let cells: Vec<[String; 7]> = std::iter::once(head).chain(self.0.iter().map(Row::cells)).collect();
        let width = |n: usize| cells.iter().map(|row| row[n].chars().count()).max().unwrap_or_default();
        let widths: [usize; 7] = std::array::from_fn(width);
        for (n, row) in cells.iter().enumerate() {
            let padded: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            say(&format!("| {} |", padded.join(" | ")));
            if n == 0 {
                let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                say(&format!("|-{}-|", rule.join("-|-")));
            }
        }
    }
}

/// Prints a line of the result.
pub(crate) fn say(line: &str) {
    // Nothing can be done if standard output is broken.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a line about the progress.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
