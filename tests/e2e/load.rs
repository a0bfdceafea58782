//! Steady traffic beside what a test does, and what became of every request of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use isthmus_tests::harness::wait_until;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::federation::{SOON, text};
use crate::workload::call;

/// Clients at once. Each sends its next request when the last is answered, but not before its turn.
const CLIENTS: u32 = 16;

/// What became of a request: the cluster that answered it, or why none did.
struct Sample {
    began: Instant,
    took: Duration,
    outcome: Result<String, String>,
}

/// GETs of one service through one proxy, at a steady rate until it is dropped.
pub(crate) struct Load {
    samples: Arc<Mutex<Vec<Sample>>>,
    began: Instant,
    clients: JoinSet<()>,
    stop: CancellationToken,
}

/// What the traffic so far came to.
#[derive(Debug)]
pub(crate) struct Report {
    /// Requests per second.
    pub(crate) rate: f64,
    /// Those that were not answered with 200, with the reasons.
    pub(crate) failed: Vec<String>,
    /// The longest that any took.
    pub(crate) slowest: Duration,
}

impl Load {
    /// Starts sending `rate` requests a second.
    pub(crate) fn start(proxy: SocketAddr, service: &'static str, rate: u32) -> Self {
        let samples: Arc<Mutex<Vec<Sample>>> = Arc::default();
        let stop = CancellationToken::new();
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let (samples, stop) = (samples.clone(), stop.clone());
            clients.spawn(async move {
                let period = Duration::from_secs(1) * CLIENTS / rate;
                let mut turn = interval(period);
                turn.set_missed_tick_behavior(MissedTickBehavior::Burst);
                turn.reset_after(period * number / CLIENTS);
                while stop.run_until_cancelled(turn.tick()).await.is_some() {
                    let began = Instant::now();
                    let outcome = call(proxy, service).await.map(|story| text(&story["cluster"]));
                    let sample = Sample { began, took: began.elapsed(), outcome };
                    samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                }
            });
        }
        Self { samples, began: Instant::now(), clients, stop }
    }

    /// Waits until a request that began from now on is answered by `cluster`.
    pub(crate) async fn reaches(&self, cluster: &str) {
        let from = Instant::now();
        let what = format!("traffic to reach {cluster}");
        wait_until(SOON, &what, async || self.any_since(from, |sample| sample.outcome.as_deref() == Ok(cluster))).await;
    }

    /// Waits until that many requests that began from now on have ended, so that a change had its effect on
    /// them.
    pub(crate) async fn goes_on(&self, requests: usize) {
        let from = Instant::now();
        wait_until(SOON, "traffic to go on", async || {
            let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
            samples.iter().filter(|sample| sample.began >= from).count() >= requests
        })
        .await;
    }

    /// Waits until so many requests in a row were answered by anyone but `cluster`.
    pub(crate) async fn leaves(&self, cluster: &str, requests: usize) {
        let what = format!("traffic to leave {cluster}");
        wait_until(SOON, &what, async || {
            let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
            let last = samples.iter().rev().take(requests);
            last.filter(|sample| matches!(&sample.outcome, Ok(by) if by != cluster)).count() == requests
        })
        .await;
    }

    fn any_since(&self, from: Instant, wanted: impl Fn(&Sample) -> bool) -> bool {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().any(|sample| sample.began >= from && wanted(sample))
    }

    /// Stops once every request under way has ended, and tells.
    pub(crate) async fn stop(self) -> Report {
        self.stop.cancel();
        self.clients.join_all().await;
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = u32::try_from(samples.len()).expect("a test's worth of requests");
        let failed = samples.iter().filter_map(|sample| {
            let error = sample.outcome.as_ref().err()?;
            Some(format!("after {:?}: {error}", sample.began.duration_since(self.began)))
        });
        Report {
            rate: f64::from(requests) / self.began.elapsed().as_secs_f64(),
            failed: failed.collect(),
            slowest: samples.iter().map(|sample| sample.took).max().unwrap_or_default(),
        }
    }
}
