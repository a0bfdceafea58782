//! Steady traffic while things break: a GET every 20 ms, each told apart by who answered it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{bail, ensure};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use super::call;
use crate::demo::layout::Service;

/// 50 requests per second: well within what a busy machine can do while it starts processes.
const INTERVAL: Duration = Duration::from_millis(20);
/// Failures shown. One explains most.
const FAILURES_SHOWN: usize = 3;

/// A request that is over.
#[derive(Clone, Debug)]
struct Sample {
    sent: Instant,
    took: Duration,
    /// The cluster that answered, or what went wrong.
    outcome: Result<String, String>,
}

/// Running traffic.
#[derive(Debug)]
pub(super) struct Load {
    samples: Arc<Mutex<Vec<Sample>>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Load {
    /// Calls `service` through the forward proxy at `proxy` until finished.
    pub(super) fn start(proxy: SocketAddr, service: &'static Service) -> Self {
        let (samples, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
        let task = tokio::spawn(drive(proxy, service, samples.clone(), stop.clone()));
        Self { samples, stop, task }
    }

    /// What came of all requests so far.
    pub(super) fn report(&self) -> Report {
        self.select(|_| true)
    }

    /// What came of the requests that were sent after `since`.
    pub(super) fn since(&self, since: Instant) -> Report {
        self.select(|sample| sample.sent >= since)
    }

    /// What came of the `count` requests that ended last.
    pub(super) fn latest(&self, count: usize) -> Report {
        let samples = lock(&self.samples);
        Report::new(samples[samples.len().saturating_sub(count)..].iter())
    }

    fn select(&self, chosen: impl Fn(&&Sample) -> bool) -> Report {
        Report::new(lock(&self.samples).iter().filter(chosen))
    }

    /// Stops sending and waits for the last answer.
    ///
    /// # Errors
    /// When any request failed.
    pub(super) async fn finish(self) -> anyhow::Result<Report> {
        self.stop.cancel();
        let Self { samples, task, .. } = self;
        task.await?;
        let report = Report::new(lock(&samples).iter());
        report.ensure_no_failure()?;
        Ok(report)
    }
}

fn lock(samples: &Mutex<Vec<Sample>>) -> MutexGuard<'_, Vec<Sample>> {
    samples.lock().expect("nobody panics while holding the samples")
}

async fn drive(
    proxy: SocketAddr,
    service: &'static Service,
    samples: Arc<Mutex<Vec<Sample>>>,
    stop: CancellationToken,
) {
    let mut ticks = interval(INTERVAL);
    let mut open = JoinSet::new();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let samples = samples.clone();
        open.spawn(async move {
            let sent = Instant::now();
            let outcome = call::cluster(proxy, service).await.map_err(|error| format!("{error:#}"));
            let sample = Sample { sent, took: sent.elapsed(), outcome };
            lock(&samples).push(sample);
        });
        while open.try_join_next().is_some() {}
    }
    open.join_all().await;
}

/// What came of a number of requests.
#[derive(Debug)]
pub(super) struct Report {
    /// Answers by cluster.
    by_cluster: BTreeMap<String, usize>,
    failures: Vec<String>,
    slowest: Duration,
    first_sent: Option<Instant>,
}

impl Report {
    fn new<'a>(samples: impl Iterator<Item = &'a Sample>) -> Self {
        let mut report =
            Self { by_cluster: BTreeMap::new(), failures: Vec::new(), slowest: Duration::ZERO, first_sent: None };
        for sample in samples {
            let first = report.first_sent.map_or(sample.sent, |first| first.min(sample.sent));
            report.first_sent = Some(first);
            report.slowest = report.slowest.max(sample.took);
            match &sample.outcome {
                Ok(cluster) => *report.by_cluster.entry(cluster.clone()).or_default() += 1,
                Err(error) => report.failures.push(error.clone()),
            }
        }
        report
    }

    /// How many requests `cluster` answered.
    pub(super) fn answered_by(&self, cluster: &str) -> usize {
        self.by_cluster.get(cluster).copied().unwrap_or(0)
    }

    /// How many requests were answered.
    pub(super) fn answered(&self) -> usize {
        self.by_cluster.values().sum()
    }

    /// How long the slowest request took.
    pub(super) fn slowest(&self) -> Duration {
        self.slowest
    }

    /// When the first request was sent.
    pub(super) fn first_sent(&self) -> Option<Instant> {
        self.first_sent
    }

    /// That every request was answered.
    ///
    /// # Errors
    /// The first failures.
    pub(super) fn ensure_no_failure(&self) -> anyhow::Result<()> {
        if self.failures.is_empty() {
            return Ok(());
        }
        let shown: Vec<&str> = self.failures.iter().take(FAILURES_SHOWN).map(String::as_str).collect();
        bail!("{} of {} requests failed, such as:\n{}", self.failures.len(), self.total(), shown.join("\n"))
    }

    /// That `cluster` answers a share of the traffic.
    ///
    /// # Errors
    /// When it answered fewer than `least` requests.
    pub(super) fn ensure_from(&self, cluster: &str, least: usize) -> anyhow::Result<()> {
        self.ensure_no_failure()?;
        ensure!(self.answered_by(cluster) >= least, "{cluster} answers nothing yet ({self})");
        Ok(())
    }

    /// That only others than `cluster` answer.
    ///
    /// # Errors
    /// When fewer than `least` requests were answered, or `cluster` answered one.
    pub(super) fn ensure_without(&self, cluster: &str, least: usize) -> anyhow::Result<()> {
        self.ensure_no_failure()?;
        ensure!(self.answered() >= least && self.answered_by(cluster) == 0, "{cluster} still answers ({self})");
        Ok(())
    }

    fn total(&self) -> usize {
        self.answered() + self.failures.len()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, {} failed, slowest {} ms",
            self.total(),
            self.failures.len(),
            self.slowest.as_millis()
        )?;
        self.by_cluster.iter().try_for_each(|(cluster, count)| write!(f, ", {cluster} {count}"))
    }
}
