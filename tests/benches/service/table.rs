//! The one table: each figure with its target, Trove's own, and how it was taken.

use std::io::Write as _;

/// One figure.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) figure: String,
    /// Its value.
    pub(crate) value: f64,
    /// Of the value.
    pub(crate) unit: &'static str,
    /// The greatest that is good; without one it is told only.
    pub(crate) target: Option<f64>,
    /// OpenStack Trove 26 on such a machine, where it was measured.
    pub(crate) trove: &'static str,
    /// What else was seen.
    pub(crate) aside: String,
    /// What was done to measure it.
    pub(crate) how: String,
}

impl Row {
    /// A figure that is told only.
    pub(crate) fn new(figure: impl Into<String>, value: f64, unit: &'static str, how: impl Into<String>) -> Self {
        let (figure, how) = (figure.into(), how.into());
        Self { figure, value, unit, target: None, trove: "", aside: String::new(), how }
    }

    /// With the greatest value that is good.
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

/// Three digits that mean something.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// All figures.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    /// Adds a figure, and tells of it while the rest is measured.
    pub(crate) fn add(&mut self, row: Row) {
        let [figure, value, target, verdict, _, aside, _] = row.cells();
        note(&format!("{figure}: {value} {target} {verdict} {aside}"));
        self.0.push(row);
    }

    /// Whether no target was missed.
    pub(crate) fn is_good(&self) -> bool {
        self.0.iter().all(Row::is_good)
    }

    /// Prints it.
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

/// A line of the result.
pub(crate) fn say(line: &str) {
    // Nothing can be done about a broken standard output.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line about what is being done.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The value in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
