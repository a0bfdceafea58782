//! What is printed of a work, and written as markdown: a row for each proxy, ours first.

use std::fmt;
use std::time::Duration;

use isthmus_tests::bench::{Quantity, Report};

use super::rounds::Seen;

/// What was seen in one work.
pub(crate) struct Table {
    title: String,
    /// What is counted: a request, a connection, a GiB.
    unit: &'static str,
    rows: Vec<Seen>,
}

/// All of them, in the order of measuring.
#[derive(Default)]
pub(crate) struct Tables(Vec<Table>);

impl Tables {
    /// Adds one, and prints it: the next takes minutes.
    pub(crate) fn add(&mut self, title: impl Into<String>, unit: &'static str, rows: Vec<Seen>) {
        let table = Table { title: title.into(), unit, rows };
        println!("{table}");
        self.0.push(table);
    }

    /// As markdown.
    pub(crate) fn markdown(&self) -> String {
        self.0.iter().map(Table::markdown).collect::<Vec<_>>().join("\n")
    }
}

impl Table {
    fn cells(&self) -> Vec<[String; 6]> {
        let unit = self.unit;
        let first = self.rows.first().map(|row| row.each).unwrap_or_default();
        let head = ["", &format!("CPU a {unit}"), "first ÷ this", "a second", "p50", "p99"].map(str::to_owned);
        let time = |time: Option<Duration>| time.map(|time| Quantity::Time(time).to_string()).unwrap_or_default();
        let row = |row: &Seen| {
            let ratio = Quantity::Times(first.as_secs_f64() / row.each.as_secs_f64());
            let rate = if row.rate < 100.0 { format!("{:.2}", row.rate) } else { format!("{:.0}", row.rate) };
            [row.name.clone(), time(Some(row.each)), ratio.to_string(), rate, time(row.p50), time(row.p99)]
        };
        std::iter::once(head).chain(self.rows.iter().map(row)).collect()
    }

    fn markdown(&self) -> String {
        let cells = self.cells();
        let mut lines: Vec<String> = cells.iter().map(|row| format!("| {} |", row.join(" | "))).collect();
        lines.insert(1, "| --- | ---: | ---: | ---: | ---: | ---: |".to_owned());
        format!("{}\n\n{}\n", self.title, lines.join("\n"))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells = self.cells();
        let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..6).map(width).collect();
        writeln!(f, "  {}", self.title)?;
        for row in &cells {
            let mut columns = row.iter().zip(&widths);
            let (name, width) = columns.next().expect("a row has a name");
            write!(f, "    {name:<width$}")?;
            columns.try_for_each(|(cell, width)| write!(f, "  {cell:>width$}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Judges our processor time by the least of `others`.
pub(crate) fn judge_processor(report: &mut Report, what: &str, rows: &[Seen], others: &[&str], limit: f64) {
    let theirs = rows.iter().filter(|row| others.contains(&row.name.as_str())).map(|row| row.each).min();
    judge(report, what, rows.first().map(|row| row.each), theirs, limit);
}

/// Judges our slowest requests by theirs.
pub(crate) fn judge_p99(report: &mut Report, what: &str, rows: &[Seen], other: &str, limit: f64) {
    let theirs = rows.iter().find(|row| row.name == other).and_then(|row| row.p99);
    judge(report, what, rows.first().and_then(|row| row.p99), theirs, limit);
}

fn judge(report: &mut Report, what: &str, ours: Option<Duration>, theirs: Option<Duration>, limit: f64) {
    if let (Some(ours), Some(theirs)) = (ours, theirs) {
        let ratio = Quantity::Times(ours.as_secs_f64() / theirs.as_secs_f64());
        report.at_most(what, ratio, Quantity::Times(limit));
    }
}
