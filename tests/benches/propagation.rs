//! How long a change of one cluster's manifests takes to show in another cluster's DNS, and in the sidecars of a
//! third.
//!
//! A service is exported by a file that is renamed into us-east's manifests. Until it is there, eu-central's DNS
//! says NXDOMAIN and the sidecar in us-west says 404. What is timed in us-west ends with the whole answer of the
//! application in us-east to the first request that finds the service: whoever can resolve it can call it.
//!
//! A change is agreed once a majority of gateways has it on disk, and here they share one disk. How long that disk
//! takes to sync is measured beside it: a tail that is the machine's shows there too.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use isthmus_tests::bench::{ClusterPart, Demo, Quantity, Report, Samples, run};
use isthmus_tests::harness::{dns, http};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// The 99th percentile of so many leaves the two slowest out.
const CHANGES: usize = 200;
/// Between two looks. What is reported is at most this, and the look itself, too long.
const PACE: Duration = Duration::from_millis(1);
/// A change that did not show by then never will.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);
/// A page of the registry's file.
const SYNCED_LEN: usize = 4096;
/// The target for the 99th percentile.
const TARGET: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    run("propagation", Box::pin(propagation()))
}

/// What took how long.
#[derive(Default)]
struct Seen {
    export_dns: Vec<Duration>,
    export_sidecar: Vec<Duration>,
    withdrawal_dns: Vec<Duration>,
    withdrawal_sidecar: Vec<Duration>,
    disk_sync: Vec<Duration>,
}

async fn propagation() -> io::Result<Report> {
    let demo = Demo::start(Path::new(env!("CARGO_BIN_EXE_isthmus"))).await?;
    let exporter = Exporter::of(&demo);
    let dns_server = demo.cluster("eu-central").dns;
    let sidecar = demo.cluster("us-west").workload("productpage").outbound;
    let mut seen = Seen::default();
    for number in 0..CHANGES {
        let service = format!("bench-{number}");
        seen.disk_sync.push(sync(&demo.scratch().join("synced"))?);
        let begun = Instant::now();
        let file = exporter.export(&service)?;
        let (by_dns, by_sidecar) = both(begun, dns_server, sidecar, &service, Presence::Shown).await?;
        seen.export_dns.push(by_dns);
        seen.export_sidecar.push(by_sidecar);
        let begun = Instant::now();
        fs::remove_file(file)?;
        let (by_dns, by_sidecar) = both(begun, dns_server, sidecar, &service, Presence::Gone).await?;
        seen.withdrawal_dns.push(by_dns);
        seen.withdrawal_sidecar.push(by_sidecar);
    }
    drop(demo);
    let mut report = Report::default();
    report_on(&mut report, "exported, DNS of eu-central", seen.export_dns);
    report_on(&mut report, "exported, called in us-west", seen.export_sidecar);
    report_on(&mut report, "withdrawn, DNS of eu-central", seen.withdrawal_dns);
    report_on(&mut report, "withdrawn, refused in us-west", seen.withdrawal_sidecar);
    let disk_sync: Samples = seen.disk_sync.into_iter().collect();
    report.figure("the disk, one sync: p50", Quantity::Time(disk_sync.percentile(50)));
    report.figure("the disk, one sync: p99", Quantity::Time(disk_sync.percentile(99)));
    report.figure("the disk, one sync: slowest", Quantity::Time(disk_sync.max()));
    Ok(report)
}

fn report_on(report: &mut Report, what: &str, seen: Vec<Duration>) {
    let seen: Samples = seen.into_iter().collect();
    report.figure(format!("{what}: p50 of {}", seen.count()), Quantity::Time(seen.percentile(50)));
    report.below(format!("{what}: p99"), Quantity::Time(seen.percentile(99)), Quantity::Time(TARGET));
    report.figure(format!("{what}: slowest"), Quantity::Time(seen.max()));
}

/// How long the disk takes to take as much as an entry of the registry's log.
fn sync(path: &Path) -> io::Result<Duration> {
    let mut file = File::create(path)?;
    file.write_all(&[0; SYNCED_LEN])?;
    let begun = Instant::now();
    file.sync_data()?;
    Ok(begun.elapsed())
}

/// Writes manifests of services that a running application of us-east serves.
struct Exporter {
    manifests: PathBuf,
    scratch: PathBuf,
    app: SocketAddr,
}

impl Exporter {
    fn of(demo: &Demo) -> Self {
        let east: &ClusterPart = demo.cluster("us-east");
        let app = east.workload("details").app;
        Self { manifests: east.manifests.clone(), scratch: demo.scratch().join("pending.yaml"), app }
    }

    /// Renames a whole file into place, as editors and `kubectl get -o yaml` with `mv` do. Gives its path.
    fn export(&self, service: &str) -> io::Result<PathBuf> {
        let (address, port) = (self.app.ip(), self.app.port());
        let manifests = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: shop}}\n\
             spec: {{ports: [{{name: http, port: {port}}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-1\n  \
             namespace: shop\n  labels: {{kubernetes.io/service-name: {service}}}\naddressType: IPv4\n\
             endpoints: [{{addresses: [\"{address}\"]}}]\nports: [{{name: http, port: {port}}}]\n\
             ---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n\
             metadata: {{name: {service}, namespace: shop}}\n"
        );
        fs::write(&self.scratch, manifests)?;
        let file = self.manifests.join(format!("{service}.yaml"));
        fs::rename(&self.scratch, &file)?;
        Ok(file)
    }
}

/// What a change is to lead to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Shown,
    Gone,
}

/// How long after `begun` DNS, and how long after it the sidecar, tells that the service is there, or is gone.
async fn both(
    begun: Instant,
    server: SocketAddr,
    sidecar: SocketAddr,
    service: &str,
    presence: Presence,
) -> io::Result<(Duration, Duration)> {
    let host = format!("{service}.shop.svc.clusterset.local");
    let url = format!("http://{host}:9080/");
    let by_dns = until(async || {
        let answer = dns::query(server, &host, dns::RecordType::A).await.ok()?;
        let found = match presence {
            Presence::Shown => answer.code == 0 && !answer.addresses().is_empty(),
            Presence::Gone => answer.code == 3,
        };
        found.then(|| begun.elapsed())
    });
    let by_sidecar = until(async || {
        let response = http::get_via_proxy(sidecar, &url).await.ok()?;
        let wanted = match presence {
            Presence::Shown => 200,
            Presence::Gone => 404,
        };
        (response.status == wanted).then(|| begun.elapsed())
    });
    let both = async { tokio::join!(by_dns, by_sidecar) };
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no change of {service} showed in {SHOWN_WITHIN:?}"));
    timeout(SHOWN_WITHIN, both).await.map_err(|_| late())
}

/// Looks at a steady pace until it finds something.
async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut turn = interval(PACE);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        if let Some(found) = look().await {
            return found;
        }
    }
}
