//! Workloads: an application process, a sidecar process beside it, and the manifests that tell of them.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use isthmus_tests::harness::{Process, http, wait_until};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::federation::{Cluster, DOMAIN, SOON, host, is_ok, port, text};

/// Where every application serves HTTP.
pub(crate) const HTTP: u16 = 9080;
/// Where every application serves lines over TCP: it greets first.
pub(crate) const TCP: u16 = 7000;
/// A sidecar's forward proxy.
pub(crate) const OUTBOUND: u16 = 15_001;
/// Where a sidecar takes sessions.
pub(crate) const INBOUND: u16 = 15_006;
/// Where a sidecar tells how it is.
const SIDECAR_STATUS: u16 = 15_020;

/// What stands beside the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mesh {
    /// A sidecar.
    Sidecar,
    /// Nothing: the gateway stands in.
    None,
}

/// Who may call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// The federation.
    Exported,
    /// The own cluster.
    Private,
}

/// A service's only instance in a cluster.
pub(crate) struct Workload {
    pub(crate) service: &'static str,
    pub(crate) app: Process,
    pub(crate) sidecar: Option<Process>,
    ip: Ipv4Addr,
}

impl Workload {
    /// Starts application and sidecar, and tells the cluster of them.
    pub(crate) async fn run(cluster: &Cluster, service: &'static str, number: u8, mesh: Mesh, offer: Offer) -> Self {
        let ip = cluster.host(number);
        cluster.write(&format!("{service}.yaml"), &manifests(service, &[ip], mesh, offer));
        let app = application(cluster, service, ip).await;
        let sidecar = match mesh {
            Mesh::Sidecar => Some(sidecar(cluster, service, ip, "").await),
            Mesh::None => None,
        };
        Self { service, app, sidecar, ip }
    }

    /// The usual case: with a sidecar, exported.
    pub(crate) async fn exported(cluster: &Cluster, service: &'static str, number: u8) -> Self {
        Self::run(cluster, service, number, Mesh::Sidecar, Offer::Exported).await
    }

    /// Starts the application again.
    pub(crate) async fn revive_app(&mut self, cluster: &Cluster) {
        self.app = application(cluster, self.service, self.ip).await;
    }

    /// Starts the sidecar again, with the token that it had.
    pub(crate) async fn revive_sidecar(&mut self, cluster: &Cluster) {
        self.sidecar = Some(start_sidecar(cluster, self.service, self.ip).await);
    }

    /// Kills the sidecar as a crash would.
    pub(crate) async fn crash_sidecar(&mut self) {
        self.sidecar.take().expect("it has one").kill9().await.expect("it ran");
    }

    /// A port at its address.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }
}

/// A client that is nobody's instance: its sidecar alone.
pub(crate) struct Client {
    name: &'static str,
    sidecar: Process,
    ip: Ipv4Addr,
}

impl Client {
    /// Starts it.
    pub(crate) async fn run(cluster: &Cluster, name: &'static str, number: u8) -> Self {
        Self::run_with(cluster, name, number, "").await
    }

    /// The same; `extra` goes into its configuration.
    pub(crate) async fn run_with(cluster: &Cluster, name: &'static str, number: u8, extra: &str) -> Self {
        let ip = cluster.host(number);
        Self { name, sidecar: sidecar(cluster, name, ip, extra).await, ip }
    }

    /// Starts it with the gateway's control socket for the token, without waiting for it.
    pub(crate) fn of_own_user(cluster: &Cluster, socket: &str, name: &'static str, number: u8) -> Self {
        let ip = cluster.host(number);
        let socket = cluster.path(socket);
        let introduction =
            format!("gateway_socket: {}\nfederation: {DOMAIN}\ncluster: {}\n", socket.display(), cluster.name);
        configure(cluster, name, ip, &introduction);
        Self { name, sidecar: spawn_sidecar(cluster, name), ip }
    }

    /// Kills it and starts it again, without waiting for it.
    pub(crate) async fn restart(&mut self, cluster: &Cluster) {
        self.sidecar.kill9().await.expect("it ran");
        self.sidecar = spawn_sidecar(cluster, self.name);
    }

    /// Whether it says that it is ready.
    pub(crate) async fn is_ready(&self) -> bool {
        is_ok(self.status()).await
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.sidecar.pid().expect("it runs")
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        self.sidecar.stderr()
    }

    /// The sidecar's forward proxy.
    pub(crate) fn outbound(&self) -> SocketAddr {
        (self.ip, OUTBOUND).into()
    }

    /// The sidecar's status port.
    pub(crate) fn status(&self) -> SocketAddr {
        (self.ip, SIDECAR_STATUS).into()
    }
}

/// Manifests of a service with an HTTP and a TCP port.
pub(crate) fn manifests(service: &str, addresses: &[Ipv4Addr], mesh: Mesh, offer: Offer) -> String {
    let sidecar = match mesh {
        Mesh::Sidecar => format!("    isthmus.dev/sidecar-port: \"{INBOUND}\"\n"),
        Mesh::None => String::new(),
    };
    let endpoints: String = addresses.iter().map(|address| format!("  - addresses: [\"{address}\"]\n")).collect();
    let export = match offer {
        Offer::Exported => format!("---\n{}", service_export(service)),
        Offer::Private => String::new(),
    };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: shop}}\nspec:\n  ports:\n  \
         - {{name: http, port: {HTTP}}}\n  - {{name: tcp, port: {TCP}}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-1\n  namespace: shop\n  \
         labels: {{kubernetes.io/service-name: {service}}}\n  annotations:\n{sidecar}    \
         isthmus.dev/service-account: {service}\naddressType: IPv4\nendpoints:\n{endpoints}\
         ports:\n- {{name: http, port: {HTTP}}}\n- {{name: tcp, port: {TCP}}}\n{export}"
    )
}

/// The manifest that offers a service to the federation.
pub(crate) fn service_export(service: &str) -> String {
    format!(
        "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {{name: {service}, namespace: shop}}\n"
    )
}

async fn application(cluster: &Cluster, service: &str, ip: Ipv4Addr) -> Process {
    let (http, tcp) = (format!("{ip}:{HTTP}"), format!("{ip}:{TCP}"));
    let args = ["sample-app", "--service", service, "--cluster", cluster.name, "--listen", &http, "--tcp-echo", &tcp];
    cluster.spawn(&format!("{service}.app"), args)
}

/// Starts a sidecar with a token of its own; `extra` goes into its configuration. Waits until it is ready.
pub(crate) async fn sidecar(cluster: &Cluster, workload: &str, ip: Ipv4Addr, extra: &str) -> Process {
    let token = text(&cluster.token("--workload", &format!("shop/{workload}"), "1h").await["token"]);
    let control = cluster.at(port::CONTROL);
    configure(cluster, workload, ip, &format!("token: {token}\ngateways: [\"{control}\"]\n{extra}"));
    start_sidecar(cluster, workload, ip).await
}

/// Writes a sidecar's configuration, which is `some` and what all have.
fn configure(cluster: &Cluster, workload: &str, ip: Ipv4Addr, some: &str) {
    let config = format!("workload_address: {ip}\nmetrics: \"{ip}:{SIDECAR_STATUS}\"\n{some}");
    fs::write(cluster.path(&format!("{workload}.sidecar.yaml")), config).expect("written");
}

fn spawn_sidecar(cluster: &Cluster, workload: &str) -> Process {
    cluster.spawn(&format!("{workload}.sidecar"), ["proxy", "--config", &format!("{workload}.sidecar.yaml")])
}

async fn start_sidecar(cluster: &Cluster, workload: &str, ip: Ipv4Addr) -> Process {
    let process = spawn_sidecar(cluster, workload);
    if !cluster.is_apart() {
        let what = format!("the sidecar of {workload} in {} to be ready", cluster.name);
        wait_until(SOON, &what, async || is_ok((ip, SIDECAR_STATUS).into()).await).await;
    }
    process
}

/// What a service answers through a forward proxy. An answer of any status but 200 is an error with its text.
pub(crate) async fn call(proxy: SocketAddr, service: &str) -> Result<Value, String> {
    let response = http::get_via_proxy(proxy, &format!("http://{}:{HTTP}/", host(service))).await;
    story(response)
}

/// What a service answers at its virtual address.
pub(crate) async fn call_vip(vip: IpAddr, service: &str) -> Result<Value, String> {
    story(http::get_as((vip, HTTP).into(), &format!("{}:{HTTP}", host(service)), "/").await)
}

fn story(response: io::Result<http::Response>) -> Result<Value, String> {
    let response = response.map_err(|error| error.to_string())?;
    if response.status != 200 {
        return Err(format!("{}: {}", response.status, response.body.trim()));
    }
    response.json().map_err(|error| error.to_string())
}

/// Waits until a service answers from `cluster`.
pub(crate) async fn answers_from(proxy: SocketAddr, service: &str, cluster: &str) {
    let what = format!("{service} to be answered by {cluster}");
    wait_until(SOON, &what, async || call(proxy, service).await.is_ok_and(|story| story["cluster"] == cluster)).await;
}

/// Hears the greeting of a TCP service, and then an echo.
pub(crate) async fn converse(stream: TcpStream) -> io::Result<String> {
    let mut lines = BufReader::new(stream).lines();
    let greeting = lines.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    lines.get_mut().write_all(b"again\n").await?;
    let echo = lines.next_line().await?.unwrap_or_default();
    assert_eq!(echo, "again");
    Ok(greeting)
}
