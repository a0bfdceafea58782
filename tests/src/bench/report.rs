//! What a bench prints: figures, and targets beside those that have one.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// Given on the command line, makes a missed target a failure.
const STRICT: &str = "--strict";

/// A measured value or a target.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub enum Quantity {
    /// A time.
    Time(Duration),
    /// Bytes, printed as megabytes of 10^6.
    Bytes(u64),
    /// How many.
    Count(usize),
    /// How many times as much.
    Times(f64),
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) if *time < Duration::from_millis(1) => write!(f, "{:.1} µs", time.as_secs_f64() * 1e6),
            Self::Time(time) => write!(f, "{:.1} ms", time.as_secs_f64() * 1e3),
            // Whole kilobytes are more than the figures are good for, and fit into 32 bits.
            Self::Bytes(bytes) => {
                write!(f, "{:.2} MB", f64::from(u32::try_from(bytes / 1_000).unwrap_or(u32::MAX)) / 1e3)
            }
            Self::Count(count) => write!(f, "{count}"),
            Self::Times(times) => write!(f, "{times:.2} ×"),
        }
    }
}

/// What a figure is compared with.
#[derive(Clone, Copy, Debug)]
enum Target {
    None,
    Below(Quantity),
    AtMost(Quantity),
    Exactly(Quantity),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Below(limit) => write!(f, "< {limit}"),
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::Exactly(wanted) => write!(f, "= {wanted}"),
        }
    }
}

#[derive(Debug)]
struct Row {
    what: String,
    seen: Quantity,
    target: Target,
}

impl Row {
    /// `None` without a target.
    fn met(&self) -> Option<bool> {
        match self.target {
            Target::None => None,
            Target::Below(limit) => Some(self.seen < limit),
            Target::AtMost(limit) => Some(self.seen <= limit),
            Target::Exactly(wanted) => Some(self.seen == wanted),
        }
    }

    fn verdict(&self) -> &'static str {
        match self.met() {
            None => "",
            Some(true) => "ok",
            Some(false) => "MISSED",
        }
    }
}

/// The figures of one bench.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// A figure without a target.
    pub fn figure(&mut self, what: impl Into<String>, seen: Quantity) {
        self.rows.push(Row { what: what.into(), seen, target: Target::None });
    }

    /// A figure that should be below `limit`.
    pub fn below(&mut self, what: impl Into<String>, seen: Quantity, limit: Quantity) {
        self.rows.push(Row { what: what.into(), seen, target: Target::Below(limit) });
    }

    /// A figure that should not be above `limit`.
    pub fn at_most(&mut self, what: impl Into<String>, seen: Quantity, limit: Quantity) {
        self.rows.push(Row { what: what.into(), seen, target: Target::AtMost(limit) });
    }

    /// A figure that should be `wanted`.
    pub fn exactly(&mut self, what: impl Into<String>, seen: Quantity, wanted: Quantity) {
        self.rows.push(Row { what: what.into(), seen, target: Target::Exactly(wanted) });
    }

    /// The same as a table of markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let row = |row: &Row| format!("| {} | {} | {} | {} |\n", row.what, row.seen, row.target, row.verdict());
        let rows: String = self.rows.iter().map(row).collect();
        format!("| figure | seen | target | |\n| --- | ---: | ---: | --- |\n{rows}")
    }

    fn all_met(&self) -> bool {
        self.rows.iter().all(|row| row.met() != Some(false))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0);
        self.rows.iter().try_for_each(|row| {
            let (what, seen, verdict) = (&row.what, row.seen.to_string(), row.verdict());
            let target = match row.target.to_string() {
                target if target.is_empty() => target,
                target => format!("  {target}"),
            };
            let line = format!("  {what:<width$}  {seen:>12}{target:<14}  {verdict}");
            writeln!(f, "{}", line.trim_end())
        })
    }
}

/// Runs a bench as a program: prints its report, or why there is none. Ctrl-C and SIGTERM drop the bench, and with it
/// what it started.
pub fn run(name: &str, bench: impl Future<Output = std::io::Result<Report>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(name, &error),
    };
    println!("{name}: {}", machine());
    let measured = runtime.block_on(async {
        tokio::select! {
            measured = bench => measured,
            stopped = stopped() => stopped.and(Err(std::io::Error::other("interrupted"))),
        }
    });
    match measured {
        Ok(report) => {
            println!("{report}");
            let strict = std::env::args().any(|arg| arg == STRICT);
            if strict && !report.all_met() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => failed(name, &error),
    }
}

/// Resolves when somebody wants the program to end.
async fn stopped() -> std::io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn failed(name: &str, error: &std::io::Error) -> ExitCode {
    eprintln!("{name}: {error}");
    ExitCode::FAILURE
}

/// What figures depend on: how many processors there are, and how busy they were with other things before
/// (proc(5), `/proc/loadavg`).
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().filter(|load| !load.is_empty()).unwrap_or("unknown");
    format!("{cores} cores, load {load} at the start")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_aligned_and_judged() {
        let mut report = Report::default();
        report.figure("median", Quantity::Time(Duration::from_micros(1_250)));
        assert!(report.all_met(), "a figure without a target misses none");
        report.exactly("failed", Quantity::Count(0), Quantity::Count(0));
        report.below("binary", Quantity::Bytes(12_000_000), Quantity::Bytes(12_000_000));
        assert!(!report.all_met(), "below is not at");
        let expected = "  median        1.2 ms\n\
                        \x20 failed             0  = 0           ok\n\
                        \x20 binary      12.00 MB  < 12.00 MB    MISSED\n";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn a_limit_that_may_be_reached_is_met_at_it() {
        let mut report = Report::default();
        report.at_most("ratio", Quantity::Times(0.5), Quantity::Times(0.5));
        assert!(report.all_met());
        report.at_most("other", Quantity::Times(0.51), Quantity::Times(0.5));
        let expected = "| figure | seen | target | |\n| --- | ---: | ---: | --- |\n\
                        | ratio | 0.50 × | ≤ 0.50 × | ok |\n| other | 0.51 × | ≤ 0.50 × | MISSED |\n";
        assert_eq!(report.markdown(), expected);
    }
}
