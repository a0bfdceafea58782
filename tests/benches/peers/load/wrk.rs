//! HTTP/1.1 by wrk, in a closed loop: each connection sends when it was answered.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use super::{CLIENTS, time};
use crate::peer::Peer;
use crate::rounds::Done;

/// What wrk says only of a run in which something failed.
const COMPLAINTS: [&str; 2] = ["Socket errors", "Non-2xx"];

/// GETs of `/` at `host`, which every proxy is asked for in the same words.
///
/// # Errors
/// When an answer was not 2xx or a connection broke.
pub(crate) async fn run(wrk: &Path, peer: &Peer, host: &str, duration: Duration) -> io::Result<Done> {
    let (clients, seconds) = (format!("-c{CLIENTS}"), format!("-d{}s", duration.as_secs()));
    let (host, url) = (format!("Host: {host}"), format!("http://{}/", peer.at));
    let mut command = Command::new(wrk);
    command.args(["-t1", &clients, &seconds, "--latency", "-H", &host, &url]).kill_on_drop(true);
    let output = command.output().await?;
    let told = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || COMPLAINTS.iter().any(|complaint| told.contains(complaint)) {
        return Err(io::Error::other(format!("wrk: {told}{}", String::from_utf8_lossy(&output.stderr))));
    }
    read(&told).ok_or_else(|| io::Error::other(format!("wrk did not say what it saw: {told}")))
}

fn read(told: &str) -> Option<Done> {
    let percentile = |percent: &str| {
        let line = told.lines().find_map(|line| line.trim().strip_prefix(percent))?;
        time(line.trim())
    };
    let (requests, rest) = told.lines().find_map(|line| line.trim().split_once(" requests in "))?;
    let took = time(rest.split(',').next()?)?;
    Some(Done { units: requests.parse().ok()?, took, p50: percentile("50%"), p99: percentile("99%") })
}
