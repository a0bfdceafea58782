//! The data plane between clients and servers that others wrote: programs as people run them, one cluster apart.
//!
//! Each test needs programs that are installed or not (`.ci/run` installs them), and skips itself out loud without them.
//! A server is behind a sidecar of `us-west`; clients in `us-east` reach it by each way that there is.

mod grpc;
mod http;
mod http2;
mod nginx;
mod websocket;

use std::env;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;

use isthmus_tests::harness::{Process, wait_until};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::federation::{Cluster, SOON, host, port, start};
use crate::workload::{Client, INBOUND, service_export, sidecar};

/// Where the server is in its cluster's block, and the client in its.
const SERVER: u8 = 20;
const CLIENT: u8 = 30;

/// Programs, where they are. `None`, and said out loud, when one of them is not installed; `how` tells how to get them.
fn installed<const N: usize>(names: [&str; N], how: &str) -> Option<[PathBuf; N]> {
    let missing: Vec<&str> = names.into_iter().filter(|name| on_path(name).is_none()).collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED: {} not there: {how}", missing.join(", "));
        return None;
    }
    Some(names.map(|name| on_path(name).expect("it was there just now")))
}

/// A program on `PATH`, or where an administrator's would be on it.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    directories.map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// A file beside these tests.
fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/e2e/interop").join(name)
}

/// A port of the service.
struct Port {
    /// As in the manifest: it says what the port speaks.
    name: &'static str,
    /// What clients call.
    number: u16,
    /// Where the server listens.
    at: u16,
}

impl Port {
    /// The usual case.
    const fn new(name: &'static str, number: u16) -> Self {
        Self { name, number, at: number }
    }
}

/// A server in one cluster and clients in another.
struct Pair {
    east: Cluster,
    west: Cluster,
    client: Client,
    vip: IpAddr,
    server: Process,
    _sidecar: Process,
}

impl Pair {
    /// Starts two clusters, and in one of them what `serve` starts at the address that it is given. Waits until clients of the
    /// other know of it.
    async fn run(service: &'static str, ports: &[Port], serve: impl FnOnce(&Path, Ipv4Addr) -> Process) -> Self {
        let [east, west] = start(["us-east", "us-west"]).await;
        let address = west.host(SERVER);
        let server = serve(west.directory(), address);
        for port in ports {
            let what = format!("{service} to listen on {}", port.at);
            wait_until(SOON, &what, async || TcpStream::connect((address, port.at)).await.is_ok()).await;
        }
        west.write("service.yaml", &manifest(service, ports, address));
        let sidecar = sidecar(&west, service, address, "").await;
        let client = Client::run(&east, "productpage", CLIENT).await;
        east.sees(service, west.name, 1).await;
        let vip = east.vip(service).await;
        for port in ports {
            let what = format!("port {} of the virtual address", port.number);
            wait_until(SOON, &what, async || TcpStream::connect((vip, port.number)).await.is_ok()).await;
        }
        Self { east, west, client, vip, server, _sidecar: sidecar }
    }

    /// The client's sidecar, as a forward proxy.
    fn sidecar(&self) -> SocketAddr {
        self.client.outbound()
    }

    /// The gateway of the client's cluster, as a forward proxy.
    fn egress(&self) -> SocketAddr {
        self.east.at(port::EGRESS)
    }
}

fn manifest(service: &str, ports: &[Port], address: Ipv4Addr) -> String {
    let list = |number: fn(&Port) -> u16| -> String {
        ports.iter().map(|port| format!("  - {{name: {}, port: {}}}\n", port.name, number(port))).collect()
    };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: shop}}\nspec:\n  ports:\n{}\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-1\n  namespace: shop\n  \
         labels: {{kubernetes.io/service-name: {service}}}\n  annotations:\n    isthmus.dev/sidecar-port: \"{INBOUND}\"\n    \
         isthmus.dev/service-account: {service}\naddressType: IPv4\nendpoints:\n  - addresses: [\"{address}\"]\n\
         ports:\n{}---\n{}",
        list(|port| port.number),
        list(|port| port.at),
        service_export(service),
    )
}

/// What became of a client.
struct Ended {
    success: bool,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ended {
    /// All that it wrote, for a person.
    fn told(&self) -> String {
        format!("{}\n{}", String::from_utf8_lossy(&self.stdout), self.stderr)
    }
}

/// Runs a client to its end, in an environment that names no proxy but those in `env`.
async fn run<T: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = T>, env: &[(&str, OsString)]) -> Ended {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    for name in ["http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    let output = timeout(SOON, command.envs(env.iter().cloned()).output()).await;
    let output = output.expect("a client ends soon").expect("an installed program runs");
    Ended {
        success: output.status.success(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A large body: many windows of HTTP/2, and bytes that do not repeat, so that one that is missing, doubled or elsewhere shows.
static LARGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(12 << 20).collect()
});

/// `http://` and what follows, at a service of the shop.
fn url(service: &str, port: u16, path: &str) -> String {
    format!("http://{}:{port}{path}", host(service))
}
