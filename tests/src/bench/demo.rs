//! The demo as a fixture: three clusters as real processes, and where everything is.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::time::sleep;

/// Address blocks that demos started by hand do not reach from their default, up to the last that is possible.
const BLOCKS: std::ops::RangeInclusive<u8> = 20..=250;
/// A demo takes its block and the two that follow.
const BLOCKS_PER_DEMO: usize = 3;
/// Where a running demo marks its blocks as taken.
const MARK: (u8, u16) = (254, 15_000);
/// How long a demo may take to start before the bench gives up. Far above any figure worth printing.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How long it may take to stop: its processes drain first.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at whether it is ready, or has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// `demo.json`, as far as benches need it.
#[derive(Clone, Debug, Deserialize)]
pub struct Document {
    /// How long the demo says that it took to get ready, in milliseconds.
    pub ready_ms: u64,
    /// Its clusters.
    pub clusters: Vec<ClusterPart>,
}

/// A cluster of the demo.
#[derive(Clone, Debug, Deserialize)]
pub struct ClusterPart {
    /// Its name.
    pub name: String,
    /// Its gateway's DNS server.
    pub dns: SocketAddr,
    /// Its gateway's process.
    pub gateway_pid: u32,
    /// The directory of its manifests.
    pub manifests: PathBuf,
    /// Its workloads.
    pub workloads: Vec<WorkloadPart>,
}

/// A workload of the demo.
#[derive(Clone, Debug, Deserialize)]
pub struct WorkloadPart {
    /// The service that it is an instance of.
    pub service: String,
    /// Where the application serves.
    pub app: SocketAddr,
    /// The application's process.
    pub app_pid: u32,
    /// The sidecar's process.
    pub sidecar_pid: u32,
    /// The sidecar's forward proxy.
    pub outbound: SocketAddr,
}

impl ClusterPart {
    /// Its workload of `service`.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn workload(&self, service: &str) -> &WorkloadPart {
        self.workloads.iter().find(|workload| workload.service == service).expect("a workload of the demo")
    }

    /// Every process of the cluster.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        let workloads = self.workloads.iter().flat_map(|workload| [workload.app_pid, workload.sidecar_pid]);
        workloads.chain([self.gateway_pid])
    }
}

/// A running demo, ready. Dropping it stops it, and waits until every process of it has ended.
#[derive(Debug)]
pub struct Demo {
    /// Where everything is.
    pub document: Document,
    /// From the start of the process until `demo.json` was there.
    pub took: Duration,
    // Stopped before its directory is removed: fields are dropped in order.
    _process: Supervisor,
    directory: TempDir,
}

impl Demo {
    /// Starts the demo of the `isthmus` binary, with a new state, and waits until it is ready.
    ///
    /// # Errors
    /// When the binary cannot be run, no address block is free, or it ends or does not get ready; with what it
    /// wrote to standard error.
    pub async fn start(isthmus: &Path) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let block = free_block().ok_or_else(|| io::Error::other("every address block is taken by a demo"))?;
        let state = directory.path().join("state");
        let log = directory.path().join("demo.log");
        let begun = Instant::now();
        let child = Command::new(isthmus)
            .args(["demo", "--address-block", &block.to_string(), "--state-dir"])
            .arg(&state)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            // Ctrl-C in a terminal is for the bench, which then stops the demo.
            .process_group(0)
            .spawn()?;
        let mut process = Supervisor(child);
        let document = loop {
            if let Some(document) = read(&state) {
                break document;
            }
            if process.0.try_wait()?.is_some() || begun.elapsed() > READY_WITHIN {
                let why = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(io::Error::other(format!("the demo did not get ready; it wrote:\n{why}")));
            }
            sleep(LOOK_EVERY).await;
        };
        Ok(Self { document, took: begun.elapsed(), _process: process, directory })
    }

    /// The cluster of that name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn cluster(&self, name: &str) -> &ClusterPart {
        self.document.clusters.iter().find(|cluster| cluster.name == name).expect("a cluster of the demo")
    }

    /// A directory on the file system of the manifests, for files that are to be renamed into place.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }
}

/// The demo's own process. Killing it would leave its children: it is asked to stop, and stops them.
#[derive(Debug)]
struct Supervisor(Child);

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = signal(self.0.id(), Signal::INT);
        let asked = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) {
            if asked.elapsed() > STOPPED_WITHIN {
                eprintln!("the demo did not stop within {STOPPED_WITHIN:?}; its processes may be left");
                let _ = self.0.kill();
                let _ = self.0.wait();
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Sends a signal to a process of the demo.
///
/// # Errors
/// When it does not run.
pub fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(kill_process(pid, signal)?)
}

/// The file appears in one step when the demo is ready.
fn read(state: &Path) -> Option<Document> {
    let text = std::fs::read_to_string(state.join("demo.json")).ok()?;
    Some(serde_json::from_str(&text).expect("demo.json has its documented shape"))
}

fn free_block() -> Option<u8> {
    let is_free = |block: u8| UdpSocket::bind((Ipv4Addr::new(127, 0, block, MARK.0), MARK.1)).is_ok();
    BLOCKS.step_by(BLOCKS_PER_DEMO).find(|first| (*first..).take(BLOCKS_PER_DEMO).all(is_free))
}
