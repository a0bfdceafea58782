//! HTTP/2 by h2load, as gRPC clients send: a small POST with trailers allowed, one at a time on each connection.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use isthmus_tests::bench::Samples;
use tokio::process::Command;

use super::{CLIENTS, time};
use crate::peer::Peer;
use crate::rounds::Done;

/// A message of gRPC: not compressed, five bytes long.
pub(crate) const MESSAGE: &[u8] = b"\0\0\0\0\x05\x0a\x03you";
/// What h2load tells of each request; without it, it tells no percentiles.
const LOG: &str = "h2load.log";
/// The message's file.
const DATA: &str = "message";

/// POSTs of a message to `path` at `host`.
///
/// # Errors
/// When a request failed or was not answered with 2xx.
pub(crate) async fn run(
    h2load: &Path,
    directory: &Path,
    peer: &Peer,
    (host, path): (&str, &str),
    duration: Duration,
) -> io::Result<Done> {
    let log = directory.join(LOG);
    // h2load writes after what is there.
    match fs::remove_file(&log) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write(directory.join(DATA), MESSAGE)?;
    let (clients, seconds) = (format!("-c{CLIENTS}"), format!("-D{}", duration.as_secs()));
    let (authority, url) = (format!(":authority: {host}"), format!("http://{}{path}", peer.at));
    let log_file = format!("--log-file={LOG}");
    let mut command = Command::new(h2load);
    command.args(["-t1", "-m1", &clients, &seconds, &log_file, "-d", DATA, "-H", &authority]);
    command.args(["-H", "content-type: application/grpc", "-H", "te: trailers", &url]);
    let output = command.current_dir(directory).kill_on_drop(true).output().await?;
    let told = String::from_utf8_lossy(&output.stdout);
    let seen = read(&told).filter(|_| output.status.success());
    let (units, took) =
        seen.ok_or_else(|| io::Error::other(format!("h2load: {told}{}", String::from_utf8_lossy(&output.stderr))))?;
    let samples = samples(&fs::read_to_string(log)?);
    Ok(Done { units, took, p50: Some(samples.percentile(50)), p99: Some(samples.percentile(99)) })
}

/// Whether a call is answered.
///
/// # Errors
/// When it is not.
pub(crate) async fn probe(h2load: &Path, directory: &Path, peer: &Peer, call: (&str, &str)) -> io::Result<()> {
    run(h2load, directory, peer, call, Duration::from_secs(1)).await.map(drop)
}

/// How many requests there were in what time; none when not all of them went well.
fn read(told: &str) -> Option<(f64, Duration)> {
    let line = |start: &str| told.lines().find_map(|line| line.strip_prefix(start));
    let took = time(line("finished in ")?.split(',').next()?)?;
    let requests = line("requests: ")?;
    let count = |of: &str, what: &str| {
        let number = of.split(", ").find_map(|part| part.trim().strip_suffix(what))?;
        number.trim().parse::<u64>().ok()
    };
    let failed = ["failed", "errored", "timeout"].map(|kind| count(requests, kind));
    let (done, good) = (count(requests, "done")?, count(line("status codes: ")?, "2xx")?);
    let units = u32::try_from(good).ok()?;
    (failed == [Some(0); 3] && done == good).then_some((f64::from(units), took))
}

/// The third column: how long a request took, in microseconds.
fn samples(log: &str) -> Samples {
    let column = |line: &str| line.split('\t').nth(2)?.trim().parse().ok().map(Duration::from_micros);
    log.lines().filter_map(column).collect()
}
