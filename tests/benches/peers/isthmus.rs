//! Ours: a cluster of one gateway, and sidecars.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use isthmus_tests::harness::{Process, Spawn, http};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::stage::{Stage, TLS};

/// The gateway's binary; the sidecar's is beside it.
const BINARY: &str = env!("CARGO_BIN_EXE_isthmus");
/// What a row of ours is called.
pub(crate) const OURS: &str = "Isthmus";
/// The federation's domain.
const DOMAIN: &str = "acme.mesh";
/// The only cluster.
const CLUSTER: &str = "bench";
/// Tokio takes from here how many threads work, where the program does not say: the gateway has one for each processor
/// otherwise, and the others have one.
const WORKER_THREADS: (&str, &str) = ("TOKIO_WORKER_THREADS", "1");
/// The gateway's ports, and a sidecar's.
const CONTROL: u16 = 15_012;
const READINESS: u16 = 15_021;
const STATUS: u16 = 15_020;
/// Where clients reach a sidecar, and a gateway's forward proxy.
pub(crate) const OUTBOUND: u16 = 15_001;
/// Where a sidecar takes sessions.
pub(crate) const INBOUND: u16 = 15_006;
/// Where a gateway takes sessions of other clusters.
pub(crate) const EAST_WEST: u16 = 15_443;
/// How long a process may take to get ready. A large catalog is read and agreed meanwhile.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// Between two looks whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The global name of a service of the shop.
pub(crate) fn host(service: &str) -> String {
    format!("{service}.shop.svc.clusterset.local")
}

/// The server name under which other clusters call the service `tls`.
pub(crate) fn tls_sni() -> String {
    format!("tls.shop.svc.{CLUSTER}.{DOMAIN}")
}

/// A gateway that runs, with one thread that works.
pub(crate) struct Cluster {
    pub(crate) gateway: Process,
    ip: Ipv4Addr,
    directory: PathBuf,
}

impl Cluster {
    /// Starts a gateway that founds its federation; `manifests` are files by name.
    ///
    /// # Errors
    /// When it does not get ready.
    pub(crate) async fn start(stage: &Stage, host: u8, manifests: &[(String, String)]) -> io::Result<Self> {
        let ip = stage.ip(host);
        let directory = stage.directory().join(format!("gateway-{host}"));
        fs::create_dir_all(directory.join("manifests"))?;
        for (name, manifest) in manifests {
            fs::write(directory.join("manifests").join(name), manifest)?;
        }
        let config = format!(
            "federation: {DOMAIN}\ncluster: {CLUSTER}\nlocality: bench-1/a\ndata_dir: data\nmanifests: manifests\n\
             address: {ip}\nfound: true\n"
        );
        fs::write(directory.join("gateway.yaml"), config)?;
        let spawn = Spawn::new("gateway", Path::new(BINARY)).args(["gateway", "--config", "gateway.yaml"]);
        let gateway = spawn.env(WORKER_THREADS.0, WORKER_THREADS.1).start(&directory)?;
        ready(&gateway, ip, READINESS).await?;
        Ok(Self { gateway, ip, directory })
    }

    /// Starts a sidecar of the workload at `host`.
    ///
    /// # Errors
    /// When it does not get ready.
    pub(crate) async fn sidecar(&self, stage: &Stage, workload: &str, host: u8) -> io::Result<Process> {
        let ip = stage.ip(host);
        let token = self.token(workload).await?;
        let config = format!(
            "token: {token}\ngateways: [\"{}:{CONTROL}\"]\nworkload_address: {ip}\nmetrics: \"{ip}:{STATUS}\"\n",
            self.ip
        );
        let file = format!("{workload}.yaml");
        fs::write(self.directory.join(&file), config)?;
        let own = Path::new(BINARY).with_file_name("isthmus-proxy");
        let spawn = if own.is_file() {
            Spawn::new(workload, &own)
        } else {
            println!("  isthmus-proxy is not beside isthmus, so that sidecars are `isthmus proxy`");
            Spawn::new(workload, Path::new(BINARY)).args(["proxy"])
        };
        let sidecar = spawn.args(["--config", &file, "--threads", "1"]).start(&self.directory)?;
        ready(&sidecar, ip, STATUS).await?;
        Ok(sidecar)
    }

    /// Waits until that many exports are agreed.
    ///
    /// # Errors
    /// When they are not in time.
    pub(crate) async fn agreed(&self, exports: usize) -> io::Result<()> {
        let (admin, end) = (self.directory.join("data/admin.sock"), Instant::now() + READY_WITHIN);
        loop {
            let status = http::get_unix(&admin, "/v1/status").await?;
            let status: Value = status.json().map_err(io::Error::other)?;
            if status["services"] == exports {
                return Ok(());
            }
            if Instant::now() > end {
                let told = format!("{exports} exports were not agreed, but {}", status["services"]);
                return Err(io::Error::other(format!("{told}:\n{}", self.gateway.stderr())));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn token(&self, workload: &str) -> io::Result<String> {
        let admin = format!("unix:{}", self.directory.join("data/admin.sock").display());
        let words = ["-o", "json", "token", "create", "--workload", &format!("shop/{workload}"), "--ttl", "1h"];
        let output = Command::new(BINARY).env("ISTHMUS_ADMIN", admin).args(words).output().await?;
        let token: Value = serde_json::from_slice(&output.stdout)
            .map_err(|_| io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))?;
        token["token"].as_str().map(str::to_owned).ok_or_else(|| io::Error::other("no token was told"))
    }
}

async fn ready(process: &Process, ip: Ipv4Addr, port: u16) -> io::Result<()> {
    let end = Instant::now() + READY_WITHIN;
    while !http::get((ip, port).into(), "/readyz").await.is_ok_and(|response| response.status == 200) {
        if Instant::now() > end {
            return Err(io::Error::other(format!("{ip} did not get ready:\n{}", process.stderr())));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// A service as manifests tell of it.
pub(crate) struct Service<'a> {
    pub(crate) name: &'a str,
    /// Names and numbers; the name says the protocol.
    pub(crate) ports: &'a [(&'a str, u16)],
    /// Its only instance.
    pub(crate) address: Ipv4Addr,
    /// Where that one's sidecar takes sessions, if it has one.
    pub(crate) sidecar_port: Option<u16>,
}

impl Service<'_> {
    /// The usual file of a service that is alone in its file.
    pub(crate) fn file(&self) -> (String, String) {
        (format!("{}.yaml", self.name), self.manifest())
    }

    /// Service, endpoints and export.
    pub(crate) fn manifest(&self) -> String {
        let Self { name, address, .. } = self;
        let ports: Vec<String> =
            self.ports.iter().map(|(name, port)| format!("{{name: {name}, port: {port}}}")).collect();
        let ports = ports.join(", ");
        let sidecar =
            self.sidecar_port.map(|port| format!("isthmus.dev/sidecar-port: \"{port}\", ")).unwrap_or_default();
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{ports}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  namespace: shop\n  \
             labels: {{kubernetes.io/service-name: {name}}}\n  \
             annotations: {{{sidecar}isthmus.dev/service-account: {name}}}\n\
             addressType: IPv4\nports: [{ports}]\nendpoints: [{{addresses: [\"{address}\"]}}]\n\
             ---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n\
             metadata: {{name: {name}, namespace: shop}}\n"
        )
    }
}

/// The service `tls`, whose instance does TLS itself where its sidecar would: what calls it from another cluster
/// passes the gateway unopened.
pub(crate) fn tls_service(address: Ipv4Addr) -> (String, String) {
    Service { name: "tls", ports: &[("tcp", TLS)], address, sidecar_port: Some(TLS) }.file()
}
