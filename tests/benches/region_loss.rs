//! What calls see of the loss of a remote region: every process of it killed at once, or its gateway frozen.
//!
//! `ratings` does not run in us-east, so that its sidecars call it in us-west and eu-central. The one that answers
//! most is lost. Latency counts from when a request was due, see [`Load`].

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use isthmus_tests::bench::{ClusterPart, Demo, Load, Quantity, Report, Request, Samples, Signal, run, signal};
use tokio::time::sleep;

/// What is called.
const URL: &str = "http://ratings.shop.svc.clusterset.local:9080/";
/// Requests a second.
const RATE: u32 = 200;
/// Traffic before the loss: sessions are warm, and the region that answers is known.
const BEFORE: Duration = Duration::from_secs(3);
/// Traffic from the loss on.
const AFTER: Duration = Duration::from_secs(7);
/// The part of it in which the loss counts as an event.
const EVENT: Duration = Duration::from_secs(3);
/// Each loss is seen so many times, each time in a new federation.
const ROUNDS: usize = 3;
/// The target for the slowest requests of the event.
const SLOWEST: Duration = Duration::from_secs(1);
/// What counts as slow when a gateway is frozen.
const SLOW: Duration = Duration::from_millis(500);
/// The target for how long a frozen gateway makes requests slow.
const SETTLED_WITHIN: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    run("region_loss", Box::pin(region_loss()))
}

async fn region_loss() -> io::Result<Report> {
    let mut report = Report::default();
    let killed = rounds("killed", |region| region.pids().try_for_each(|pid| signal(pid, Signal::KILL))).await?;
    report_on(&mut report, "region killed", &killed);
    let frozen = rounds("frozen", |region| signal(region.gateway_pid, Signal::STOP)).await?;
    report_on(&mut report, "gateway frozen", &frozen);
    let settled = frozen.iter().map(Round::slow_for).max().unwrap_or_default();
    report.below(
        format!("gateway frozen: last answer that took over {} ms", SLOW.as_millis()),
        Quantity::Time(settled),
        Quantity::Time(SETTLED_WITHIN),
    );
    Ok(report)
}

/// The traffic around one loss.
struct Round {
    requests: Vec<Request>,
    lost: String,
    at: Instant,
}

async fn rounds(what: &str, lose: impl Fn(&ClusterPart) -> io::Result<()>) -> io::Result<Vec<Round>> {
    let mut rounds = Vec::new();
    for number in 0..ROUNDS {
        let demo = Demo::start(Path::new(env!("CARGO_BIN_EXE_isthmus"))).await?;
        let round = round(&demo, &lose).await?;
        drop(demo);
        println!("  {what} {}: {round}", number + 1);
        rounds.push(round);
    }
    Ok(rounds)
}

async fn round(demo: &Demo, lose: impl Fn(&ClusterPart) -> io::Result<()>) -> io::Result<Round> {
    let proxy = demo.cluster("us-east").workload("productpage").outbound;
    let scout = Load::start(proxy, URL, RATE);
    sleep(BEFORE / 2).await;
    let lost = most_frequent(&scout.finish().await)?;
    let load = Load::start(proxy, URL, RATE);
    sleep(BEFORE).await;
    let at = Instant::now();
    lose(demo.cluster(&lost))?;
    sleep(AFTER).await;
    Ok(Round { requests: load.finish().await, lost, at })
}

/// The cluster that answered most.
fn most_frequent(requests: &[Request]) -> io::Result<String> {
    let answered_by = |name: &str| requests.iter().filter(|r| r.outcome.as_deref() == Ok(name)).count();
    let most = ["us-west", "eu-central"].into_iter().max_by_key(|name| answered_by(name));
    let most = most.filter(|name| answered_by(name) > 0).map(str::to_owned);
    most.ok_or_else(|| io::Error::other(format!("ratings is not answered: {:?}", requests.last())))
}

impl Round {
    fn failed(&self) -> usize {
        self.requests.iter().filter(|request| request.outcome.is_err()).count()
    }

    /// Requests that were answered before the loss.
    fn before(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(|request| request.ended() < self.at)
    }

    /// How many percent of the answers came from what was lost.
    fn share(&self) -> usize {
        let by_lost = self.before().filter(|request| request.outcome.as_deref() == Ok(&self.lost)).count();
        by_lost * 100 / self.before().count().max(1)
    }

    /// Requests that were under way at the loss, or due shortly after.
    fn event(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(|request| request.ended() >= self.at && request.due < self.at + EVENT)
    }

    /// From the loss until the last slow request had its answer.
    fn slow_for(&self) -> Duration {
        let slow = self.requests.iter().filter(|request| request.ended() >= self.at && request.took > SLOW);
        slow.map(|request| request.ended().duration_since(self.at)).max().unwrap_or_default()
    }
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let event: Samples = self.event().collect();
        let over = |limit: Duration| self.event().filter(|request| request.took > limit).count();
        write!(
            f,
            "{} lost, which gave {} % of the answers; {} requests, {} failed, slowest {} ms, {} over 100 ms, {} over 500 ms",
            self.lost,
            self.share(),
            self.requests.len(),
            self.failed(),
            event.max().as_millis(),
            over(Duration::from_millis(100)),
            over(SLOW),
        )?;
        let failure = self.requests.iter().find_map(|request| request.outcome.as_ref().err());
        failure.map_or(Ok(()), |failure| write!(f, "; first failure: {failure}"))
    }
}

fn report_on(report: &mut Report, what: &str, rounds: &[Round]) {
    let sent = rounds.iter().map(|round| round.requests.len()).sum();
    report.figure(format!("{what}: requests in {} rounds", rounds.len()), Quantity::Count(sent));
    let failed = rounds.iter().map(Round::failed).sum();
    report.exactly(format!("{what}: failed"), Quantity::Count(failed), Quantity::Count(0));
    let before =
        rounds.iter().map(|round| round.before().collect::<Samples>().percentile(99)).max().unwrap_or_default();
    report.figure(format!("{what}: p99 before"), Quantity::Time(before));
    let event: Samples = rounds.iter().flat_map(Round::event).collect();
    let seconds = EVENT.as_secs();
    let limit = Quantity::Time(SLOWEST);
    report.below(format!("{what}: p99 in the {seconds} s after"), Quantity::Time(event.percentile(99)), limit);
    report.figure(format!("{what}: slowest in the {seconds} s after"), Quantity::Time(event.max()));
}
