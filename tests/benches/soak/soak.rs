//! Whether anything grows or fails that should not, over minutes of mixed load with something always coming or going.
//!
//! Three clusters as real processes, two services with five instances of which one after the other is withdrawn,
//! killed and started again, and clients of every kind beside. `cargo bench -p isthmus --bench soak -- MINUTES`; what
//! runs for less than [`LONG`] judges errors, and of growth only what is gross. That is what CI runs, in the build of the tests.

mod app;
mod faults;
#[path = "../../e2e/federation.rs"]
#[allow(dead_code, clippy::panic, reason = "shared with the end-to-end tests, which use all of it")]
mod federation;
mod growth;
mod load;
mod stage;
mod verdict;
#[path = "../../e2e/workload.rs"]
#[allow(dead_code, clippy::panic, reason = "shared with the end-to-end tests, which use all of it")]
mod workload;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_tests::bench::{Report, run};
use tokio_util::sync::CancellationToken;

use faults::Ledger;
use growth::Growth;
use load::{Load, Places};
use stage::Stage;

/// Without an argument: as much as shows errors.
const MINUTES: f64 = 0.5;
/// From here on growth is judged by its slope: before, caches and pools still fill.
const LONG: Duration = Duration::from_secs(5 * 60);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [word, ip, name] = &args[..]
        && word == app::WORD
    {
        return app::run(ip, name);
    }
    let minutes = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(MINUTES);
    run("soak", Box::pin(soak(Duration::from_secs_f64(minutes * 60.0))))
}

async fn soak(lasts: Duration) -> io::Result<Report> {
    let mut stage = Stage::start().await?;
    let mut growth = Growth::begin(stage.processes());
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(Places::of(&stage).await);
    let stop = CancellationToken::new();
    let watching = tokio::spawn({
        let stop = stop.clone();
        async move {
            growth.watch(&stop).await;
            growth
        }
    });
    let until = Instant::now() + lasts;
    let injected = faults::inject(&mut stage, &ledger, until).await?;
    stop.cancel();
    if verdict::connections(&stage).await == 0 {
        // Then that there are none at rest would say nothing.
        return Err(io::Error::other("under load, the metrics tell of no connection"));
    }
    let growth = watching.await.map_err(io::Error::other)?;
    let done = load.stop().await;
    println!("  injected: {injected}");
    let mut report = Report::default();
    verdict::on_requests(&mut report, &done, &ledger);
    verdict::on_growth(&mut report, &growth, lasts >= LONG);
    verdict::at_rest(&mut report, &stage, &growth).await;
    Ok(report)
}
