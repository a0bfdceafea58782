//! What is printed, and what is judged: failures that no fault excuses, growth, and what is left when all is quiet.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use isthmus_tests::bench::{Quantity, Report, Samples};
use tokio::time::sleep;

use crate::faults::Ledger;
use crate::federation::metric;
use crate::growth::{Growth, Sample, Watched};
use crate::load::{Done, Failure, Kind};
use crate::stage::Stage;

/// What grows: all that is resident, and what of it is no file's. The difference is the binary, as it is first run.
const RESIDENT: (&str, fn(&Sample) -> u64) = ("resident memory", |sample| sample.resident);
const ANONYMOUS: (&str, fn(&Sample) -> u64) = ("memory of no file", |sample| sample.anonymous);
/// Growth of memory per minute, in bytes, over a long run.
const SLOPE_MAX: u64 = 100_000;
/// The same while pools and caches still fill: less than a request's worth for each request.
const SLOPE_MAX_SHORT: u64 = 20_000_000;
/// Descriptors that may be open more than before the load: pooled sessions and kept connections to applications.
const DESCRIPTORS_MORE: usize = 16;
/// How long after the load they may still be more: sessions without requests stay for a minute, kept connections for less.
const REST_WITHIN: Duration = Duration::from_secs(75);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Failures that are printed.
const SHOWN: usize = 20;

pub(crate) fn on_requests(report: &mut Report, done: &BTreeMap<Kind, Vec<Done>>, ledger: &Ledger) {
    println!("\n  {:<38} {:>9} {:>7} {:>10} {:>10}", "kind", "requests", "failed", "p50", "p99");
    let mut unexcused = Vec::new();
    for (kind, done) in done {
        let took: Samples = done.iter().filter(|done| done.failed.is_none()).map(|done| done.took).collect();
        let failed = done.iter().filter(|done| done.failed.is_some()).count();
        let (p50, p99) = (Quantity::Time(took.percentile(50)), Quantity::Time(took.percentile(99)));
        println!("  {:<38} {:>9} {failed:>7} {:>10} {:>10}", kind.name(), done.len(), p50.to_string(), p99.to_string());
        for done in done {
            let Some(failure) = &done.failed else { continue };
            let told = format!("{}: {failure} after {:?}", kind.name(), done.took);
            if let Some(why) = no_excuse(*kind, done, failure, ledger) {
                unexcused.push(format!("{told}; {why}"));
            }
        }
    }
    println!();
    for failure in unexcused.iter().take(SHOWN) {
        println!("  NOT EXCUSED: {failure}");
    }
    let all = done.values().map(Vec::len).sum();
    report.figure("requests and conversations", Quantity::Count(all));
    let failed: usize = done.values().flatten().filter(|done| done.failed.is_some()).count();
    report.figure("failed by an injected fault", Quantity::Count(failed - unexcused.len()));
    report.exactly("failed otherwise", Quantity::Count(unexcused.len()), Quantity::Count(0));
}

/// Why a failure has no excuse, unless it has one.
fn no_excuse(kind: Kind, done: &Done, failure: &Failure, ledger: &Ledger) -> Option<String> {
    match (ledger.excuse(done.began, done.began + done.took), failure) {
        (None, _) => Some("no fault was injected then".to_owned()),
        (Some(fault), Failure::Unanswered(_)) if kind.is_idempotent() => {
            Some(format!("{fault}, but another instance could have answered"))
        }
        (Some(_), _) => None,
    }
}

pub(crate) fn on_growth(report: &mut Report, growth: &Growth, long: bool) {
    let columns = ["RSS at 1/3", "at 2/3", "at the end", "kB a minute", "of no file", "descriptors"];
    let [third, two_thirds, end, slope, own, descriptors] = columns;
    println!("  {:<38} {third:>10} {two_thirds:>10} {end:>10} {slope:>12} {own:>10} {descriptors:>16}", "process");
    for process in &growth.processes {
        let samples = process.thirds();
        let [third, two_thirds, end] = samples.map(|sample| Quantity::Bytes(sample.resident).to_string());
        let descriptors = samples.map(|sample| sample.descriptors.to_string()).join(" / ");
        let [slope, own] = [RESIDENT, ANONYMOUS].map(|(_, size)| process.slope(size) / 1e3);
        let name = &process.name;
        println!("  {name:<38} {third:>10} {two_thirds:>10} {end:>10} {slope:>12.1} {own:>10.1} {descriptors:>16}");
    }
    println!();
    let limit = if long { SLOPE_MAX } else { SLOPE_MAX_SHORT };
    for (memory, size) in [RESIDENT, ANONYMOUS] {
        let slopes = growth.processes.iter().map(|process| (process.slope(size), &process.name));
        let Some((slope, name)) = slopes.max_by(|(a, _), (b, _)| a.total_cmp(b)) else { continue };
        let what = format!("steepest growth of {memory}, a minute ({name})");
        report.below(what, Quantity::Bytes(slope.max(0.0) as u64), Quantity::Bytes(limit));
    }
}

/// The load is over: nothing of it may be left open.
pub(crate) async fn at_rest(report: &mut Report, stage: &Stage, growth: &Growth) {
    let began = Instant::now();
    let (mut more, mut open) = (most_more(growth), connections(stage).await);
    while began.elapsed() < REST_WITHIN && (more.1 > DESCRIPTORS_MORE || open > 0) {
        sleep(LOOK_EVERY).await;
        (more, open) = (most_more(growth), connections(stage).await);
    }
    let what = format!("descriptors more than before the load, at most ({})", more.0);
    report.at_most(what, Quantity::Count(more.1), Quantity::Count(DESCRIPTORS_MORE));
    report.exactly("clients' connections still open", Quantity::Count(open), Quantity::Count(0));
    report.figure("at rest after", Quantity::Time(began.elapsed()));
    let retries = metric(stage.client.status(), "isthmus_retries_total", "service=").await.unwrap_or_default();
    report.figure("requests that the client's sidecar sent again", Quantity::Count(retries as usize));
}

fn most_more(growth: &Growth) -> (&str, usize) {
    let more = |process: &Watched| process.descriptors().saturating_sub(process.descriptors_before);
    let all = growth.processes.iter().map(|process| (process.name.as_str(), more(process)));
    all.max_by_key(|(_, more)| *more).unwrap_or_default()
}

/// Connections that clients have open, as the client's sidecar and all gateways tell.
pub(crate) async fn connections(stage: &Stage) -> usize {
    let mut open = 0.0;
    for (_, address) in stage.metrics() {
        open += metric(address, "isthmus_connections", "outbound").await.unwrap_or_default();
    }
    open as usize
}
