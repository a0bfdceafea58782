//! How long the demo takes from a built binary to three joined clusters with all catalogs everywhere.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use isthmus_tests::bench::{Demo, Quantity, Report, Samples, run};

/// Each start is a new federation with new keys in a new directory.
const STARTS: usize = 5;
/// What a person is willing to wait for.
const READY_WITHIN: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    run("ready", ready())
}

async fn ready() -> std::io::Result<Report> {
    let (mut told, mut seen) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let demo = Demo::start(Path::new(env!("CARGO_BIN_EXE_isthmus"))).await?;
        told.push(Duration::from_millis(demo.document.ready_ms));
        seen.push(demo.took);
        drop(demo);
    }
    let (told, seen): (Samples, Samples) = (told.into_iter().collect(), seen.into_iter().collect());
    let mut report = Report::default();
    report.figure(format!("ready_ms, fastest of {STARTS} starts"), Quantity::Time(told.min()));
    report.figure("ready_ms, median", Quantity::Time(told.percentile(50)));
    report.below("ready_ms, slowest", Quantity::Time(told.max()), Quantity::Time(READY_WITHIN));
    report.below("with the process's own start, slowest", Quantity::Time(seen.max()), Quantity::Time(READY_WITHIN));
    Ok(report)
}
