//! What an idle federation costs in memory, and the size of the sidecar's binary.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use isthmus_tests::bench::{Demo, Quantity, Report, run};
use tokio::time::sleep;

/// After this long without requests, start-up is over: what is left is what idling takes.
const IDLE_FOR: Duration = Duration::from_secs(10);
/// The resident set: what the targets are about.
const RESIDENT: &str = "VmRSS:";
/// The part of it that no other process shares and no file backs.
const OWN: &str = "RssAnon:";
/// The targets.
const SIDECAR_MAX: Quantity = Quantity::Bytes(12_000_000);
const BINARY_MAX: Quantity = Quantity::Bytes(12_000_000);
const GATEWAY_MAX: Quantity = Quantity::Bytes(60_000_000);

fn main() -> ExitCode {
    run("footprint", footprint())
}

async fn footprint() -> io::Result<Report> {
    let isthmus = Path::new(env!("CARGO_BIN_EXE_isthmus"));
    let demo = Demo::start(isthmus).await?;
    sleep(IDLE_FOR).await;
    let clusters = &demo.document.clusters;
    let gateways: Vec<u32> = clusters.iter().map(|cluster| cluster.gateway_pid).collect();
    let workloads = clusters.iter().flat_map(|cluster| &cluster.workloads);
    let sidecars: Vec<u32> = workloads.map(|workload| workload.sidecar_pid).collect();
    let (sidecar, sidecar_own) = (largest(&sidecars, RESIDENT)?, largest(&sidecars, OWN)?);
    let (gateway, gateway_own) = (largest(&gateways, RESIDENT)?, largest(&gateways, OWN)?);
    drop(demo);
    let mut report = Report::default();
    report.figure("isthmus, binary", Quantity::Bytes(fs::metadata(isthmus)?.len()));
    match fs::metadata(isthmus.with_file_name("isthmus-proxy")) {
        Ok(binary) => report.below("isthmus-proxy, binary", Quantity::Bytes(binary.len()), BINARY_MAX),
        Err(_) => println!(
            "  isthmus-proxy is not beside isthmus, so that sidecars are `isthmus proxy`;\n  \
             build it first: cargo build --release -p isthmus-proxy"
        ),
    }
    report.below("sidecar, resident, largest", Quantity::Bytes(sidecar), SIDECAR_MAX);
    report.figure("sidecar, without mapped files, largest", Quantity::Bytes(sidecar_own));
    report.below("gateway, resident, largest", Quantity::Bytes(gateway), GATEWAY_MAX);
    report.figure("gateway, without mapped files, largest", Quantity::Bytes(gateway_own));
    Ok(report)
}

/// The largest value of a field of `/proc/PID/status`, in bytes.
fn largest(pids: &[u32], field: &str) -> io::Result<u64> {
    pids.iter().map(|pid| memory(*pid, field)).try_fold(0, |largest, size| Ok(size?.max(largest)))
}

/// A field of `/proc/PID/status` in bytes; there it is in units of 1024 (proc(5)).
fn memory(pid: u32, field: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kibibytes.map(|size| size * 1024).ok_or_else(|| io::Error::other(format!("process {pid} tells no {field}")))
}
