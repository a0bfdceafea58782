//! Steady traffic in an open loop: each request is sent when its time has come, whatever became of those before
//! it, and its latency counts from that time. A closed loop would wait politely while everything stands still,
//! and measure less of exactly what the bench is about.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::samples::Samples;
use crate::harness::http;

/// What became of a request.
#[derive(Debug)]
pub struct Request {
    /// When it was due.
    pub due: Instant,
    /// From then until the whole answer was there, or an error.
    pub took: Duration,
    /// The cluster that answered with status 200, or why none did.
    pub outcome: Result<String, String>,
}

impl Request {
    /// When it had its answer, or an error.
    #[must_use]
    pub fn ended(&self) -> Instant {
        self.due + self.took
    }
}

/// GETs of one URL through one forward proxy, until [`finish`](Self::finish).
#[derive(Debug)]
pub struct Load {
    stop: oneshot::Sender<()>,
    running: tokio::task::JoinHandle<Vec<Request>>,
}

impl Load {
    /// Starts sending `rate` requests a second.
    #[must_use]
    pub fn start(proxy: SocketAddr, url: &str, rate: u32) -> Self {
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(send(proxy, url.to_owned(), Duration::from_secs(1) / rate, stopped));
        Self { stop, running }
    }

    /// Stops sending, waits for the answers that are still to come, and gives every request in the order of
    /// sending.
    ///
    /// # Panics
    /// When the traffic did.
    pub async fn finish(self) -> Vec<Request> {
        // Whoever listens ends by this alone.
        drop(self.stop);
        self.running.await.expect("the traffic does not panic")
    }
}

async fn send(proxy: SocketAddr, url: String, period: Duration, mut stopped: oneshot::Receiver<()>) -> Vec<Request> {
    let mut under_way = JoinSet::new();
    let mut turn = interval(period);
    // What was missed is sent at once, and its latency counts from when it was due.
    turn.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        let due = tokio::select! {
            biased;
            _ = &mut stopped => break,
            due = turn.tick() => due.into_std(),
        };
        let url = url.clone();
        under_way.spawn(async move {
            let outcome = get(proxy, &url).await;
            Request { due, took: due.elapsed(), outcome }
        });
    }
    let mut requests = under_way.join_all().await;
    requests.sort_by_key(|request| request.due);
    requests
}

async fn get(proxy: SocketAddr, url: &str) -> Result<String, String> {
    let response = http::get_via_proxy(proxy, url).await.map_err(|error| error.to_string())?;
    if response.status != 200 {
        return Err(format!("{}: {}", response.status, response.body.trim()));
    }
    let story = response.json().map_err(|error| error.to_string())?;
    story["cluster"].as_str().map(str::to_owned).ok_or_else(|| format!("no cluster answered: {story}"))
}

/// How long requests took.
impl<'a> FromIterator<&'a Request> for Samples {
    fn from_iter<T: IntoIterator<Item = &'a Request>>(requests: T) -> Self {
        requests.into_iter().map(|request| request.took).collect()
    }
}
