//! What hostile and broken peers send, on the listeners that only the real processes have: the ports and sockets for operators and
//! scrapers, and those that speak gRPC. Where requests go on to an application, the same is replayed by `proxy/tests`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2 as client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_federation::data_dir::DataDir;
use isthmus_identity::{GatewayCredentials, LiveIdentity, TrustBundle};
use isthmus_model::spiffe::SpiffeId;
use isthmus_tests::harness::{http as plain, peak, wait_until};
use isthmus_tests::hostile::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, PING, Peer, Stream, field, frame, request,
};
use isthmus_tests::hostile::http2::Flood;
use isthmus_tests::hostile::{HIDDEN, Safe, grpc, http1, http2};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::federation::{Cluster, DOMAIN, SOON, federate, metric, port, resident};
use crate::workload::Client;

/// A connection that is refused is closed by then: small servers wait five to ten seconds for what does not come.
const CLOSED_WITHIN: Duration = Duration::from_secs(15);
/// How soon somebody new is answered beside those who say nothing: long before they are given up.
const PROMPT: Duration = Duration::from_secs(3);
/// Connections that say nothing: several times what a small server has at once.
const SILENT: usize = 300;
/// How much a process may grow by what is announced, or by a flood.
const GROWTH_MAX: u64 = 24 << 20;
/// RESOURCE_EXHAUSTED, OUT_OF_RANGE, UNIMPLEMENTED and INTERNAL: too much, packed in a way that is not spoken, and no message.
const REFUSED: [&str; 4] = ["8", "11", "12", "13"];
/// How long a flood that need not end goes on.
const LASTS: Duration = Duration::from_millis(500);

/// Where a listener is.
#[derive(Clone)]
enum At {
    Port(SocketAddr),
    Socket(PathBuf),
    /// With what TLS shows, and whom it asks for.
    Tls(SocketAddr, LiveIdentity, String),
}

impl At {
    async fn open(&self) -> Box<dyn Stream> {
        match self {
            Self::Port(address) => Box::new(TcpStream::connect(address).await.expect("it listens")),
            Self::Socket(path) => Box::new(UnixStream::connect(path).await.expect("it listens")),
            Self::Tls(address, identity, sni) => {
                let config = identity.client_config(Arc::new(|_: &SpiffeId| true), &[b"h2"]);
                let name = ServerName::try_from(sni.clone()).expect("a name");
                let stream = TcpStream::connect(address).await.expect("it listens");
                Box::new(TlsConnector::from(config).connect(name, stream).await.expect("a handshake"))
            }
        }
    }
}

/// A listener that speaks HTTP/1.1 and answers itself.
struct Small {
    what: &'static str,
    at: At,
    /// How it is called, and what it answers with 200.
    host: &'static str,
    path: &'static str,
    pid: u32,
}

impl Small {
    async fn is_served(&self) -> bool {
        let asked = async {
            let mut stream = self.at.open().await;
            let Self { host, path, .. } = self;
            let text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.write_all(text.as_bytes()).await.ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok()?;
            Some(answer.starts_with(b"HTTP/1.1 200"))
        };
        timeout(PROMPT, asked).await.is_ok_and(|served| served == Some(true))
    }

    /// What it says to these bytes until it closes the connection.
    async fn hears(&self, bytes: &[u8], what: &str) -> String {
        let (mut read, mut write) = tokio::io::split(self.at.open().await);
        let mut answer = Vec::new();
        let writing = async {
            let _ = write.write_all(bytes).await;
        };
        let reading = timeout(CLOSED_WITHIN, read.read_to_end(&mut answer));
        let (closed, ()) = tokio::join!(reading, writing);
        assert!(closed.is_ok(), "{}, {what}: still open after {}", self.what, String::from_utf8_lossy(&answer));
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn replay(&self) {
        for http1::Case { row, what, bytes, safe } in http1::messages(self.host, self.path) {
            let answer = self.hears(&bytes, what).await;
            let told = format!("row {row}, {what} at {}: {}", self.what, answer.get(..300).unwrap_or(&answer));
            assert!(answer.matches("HTTP/1.1 ").count() <= 1 && !answer.contains(HIDDEN), "{told}");
            let status = answer.split(' ').nth(1).unwrap_or_default();
            let refused = matches!(status, "400" | "414" | "431") || (answer.is_empty() && bytes.len() > 16 << 10);
            // A body that nobody reads need not be refused, if nothing is taken from behind it.
            assert!(refused || !matches!(safe, Safe::Refused), "{told}");
        }
        assert!(self.is_served().await, "{}", self.what);
    }

    /// Those who say nothing keep nobody out.
    async fn crowded(&self) {
        let (mut silent, most) = peak(self.pid, async {
            let mut silent = Vec::new();
            for _ in 0..SILENT {
                silent.push(self.at.open().await);
            }
            assert!(self.is_served().await, "{}: somebody new beside those who say nothing", self.what);
            silent
        })
        .await;
        println!("{}: {} MiB with {SILENT} who say nothing", self.what, most >> 20);
        // The oldest have made room, long before their time was over.
        let oldest = timeout(PROMPT, silent[0].read_u8()).await;
        assert!(oldest.is_ok_and(|read| read.is_err()), "{}: all of them have a place", self.what);
    }
}

/// A listener that speaks gRPC.
struct Grpc {
    what: &'static str,
    at: At,
    calls: &'static [&'static str],
    pid: u32,
}

impl Grpc {
    /// What a call with that message is told, in the header or after it.
    async fn call(&self, path: &str, message: &grpc::Message) -> Result<HeaderMap, hyper::Error> {
        let io = TokioIo::new(self.at.open().await);
        let (mut send, connection) = client::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        let request = Request::post(format!("http://gateway{path}"));
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        let request = request.header("workload.spiffe.io", "true");
        let request = message.encoding.into_iter().fold(request, |request, name| request.header("grpc-encoding", name));
        let body = Full::new(Bytes::from_static(message.bytes));
        let response = send.send_request(request.body(body).expect("a request")).await?;
        let mut told = response.headers().clone();
        if let Some(trailers) = response.into_body().collect().await?.trailers() {
            told.extend(trailers.clone());
        }
        Ok(told)
    }

    /// Row 8: none is taken, and each is told so.
    async fn announced_too_much(&self) {
        for path in self.calls {
            for message in &grpc::MESSAGES {
                let before = resident(self.pid);
                let (answer, most) = peak(self.pid, timeout(CLOSED_WITHIN, self.call(path, message))).await;
                let told = format!("{} to {path} at {}: {answer:?}", message.what, self.what);
                let headers = answer.expect("an answer in time").expect("an answer");
                let status = headers.get("grpc-status").and_then(|status| status.to_str().ok());
                assert!(status.is_some_and(|status| REFUSED.contains(&status)), "{told}");
                assert!(most < before + GROWTH_MAX, "{told}: grew from {before} to {most}");
            }
        }
    }

    /// Rows 6 and 7.
    async fn no_requests(&self) {
        for http2::Case { row, what, frames, .. } in http2::messages("POST", self.calls[0], "gateway") {
            let mut peer = Peer::open(self.at.open().await).await;
            peer.send(&frames).await;
            let outcome = peer.outcome(1).await;
            let told = format!("row {row}, {what} at {}: {outcome:?}", self.what);
            assert!(!matches!(outcome, Outcome::Answered(200) | Outcome::Silence), "{told}");
        }
    }

    /// Row 5.
    async fn flooded(&self) {
        for Flood { what, frames, ends } in http2::floods(self.calls[0], "gateway") {
            let (before, began) = (resident(self.pid), Instant::now());
            let flooding = async {
                let mut peer = Peer::open(self.at.open().await).await;
                if ends {
                    peer.send(&frames).await;
                    return peer.outcome(u32::MAX).await;
                }
                let sending = async { while peer.send(&frames).await {} };
                let _ = timeout(LASTS, sending).await;
                // Also while it is there.
                assert!(self.is_alive().await, "{what} at {}", self.what);
                Outcome::Silence
            };
            let (outcome, most) = peak(self.pid, flooding).await;
            let grown = most.saturating_sub(before);
            println!("{what} at {}: {outcome:?} after {:?}, {} KiB", self.what, began.elapsed(), grown >> 10);
            assert!(
                !ends || matches!(outcome, Outcome::GoAway(_) | Outcome::Closed),
                "{what} at {}: {outcome:?}",
                self.what
            );
            assert!(grown < GROWTH_MAX && began.elapsed() < SOON, "{what} at {}: grew by {grown}", self.what);
            assert!(self.is_alive().await, "{what} at {}", self.what);
        }
    }

    /// Whether somebody new is answered.
    async fn is_alive(&self) -> bool {
        let mut peer = Peer::open(self.at.open().await).await;
        peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("POST", "/nobody", "gateway"))).await;
        matches!(peer.outcome(1).await, Outcome::Answered(_))
    }
}

fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// One cluster with everything that listens, as `us-east.sock` and `workload.sock` too.
async fn cluster() -> (Cluster, Client) {
    let socket = format!("control_socket:\n  path: us-east.sock\n  workloads:\n    {}: shop/productpage\n", own_uid());
    let mut clusters = [Cluster::new("us-east", &format!("found: true\n{socket}"))];
    federate(&mut clusters).await;
    let [cluster] = clusters;
    let workload_api = format!("workload_api:\n  socket: {}\n", cluster.path("workload.sock").display());
    let client = Client::run_with(&cluster, "productpage", 30, &workload_api).await;
    (cluster, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_to_operators_and_scrapers_ports_are_refused() {
    let (mut east, client) = cluster().await;
    let gateway = east.process().pid().expect("it runs");
    let small = |what, at, host, path| Small { what, at, host, path, pid: gateway };
    let all = [
        small("admin", At::Port(east.at(port::ADMIN)), "localhost", "/v1/status"),
        small("the admin socket", At::Socket(east.path("data/admin.sock")), "localhost", "/v1/status"),
        small("metrics", At::Port(east.at(port::METRICS)), "gateway", "/metrics"),
        small("readiness", At::Port(east.at(port::READINESS)), "gateway", "/readyz"),
        Small { pid: client.pid(), ..small("a sidecar's status", At::Port(client.status()), "sidecar", "/readyz") },
    ];
    for small in &all {
        assert!(small.is_served().await, "{}", small.what);
        small.replay().await;
        small.crowded().await;
    }
    // Row 4: the admin port is for who calls it by its address; the others have one thing to tell to everybody.
    for host in ["evil.example", "localhost, localhost", "localhost@evil.example"] {
        let answer = plain::get_as(east.at(port::ADMIN), host, "/v1/status").await.expect("an answer");
        assert_eq!(answer.status, 403, "{host}");
    }
    assert!(east.status().await["registry"].is_object() && client.is_ready().await);
}

/// What a gateway of us-east is asked for by name.
const OWN_SNI: &str = "gateway.us-east.acme.mesh";

/// Trusts the cluster's federation, and has nothing to show.
fn newcomer(cluster: &Cluster) -> LiveIdentity {
    let data = DataDir::open(&cluster.path("data")).expect("the gateway's");
    let roots = data.read_node().expect("readable").expect("a member's").roots().expect("they decode");
    let identity = LiveIdentity::new();
    identity.set_trust(TrustBundle::new(DOMAIN.parse().expect("valid"), roots).expect("a bundle"));
    identity
}

/// A member that has gone bad.
fn member(cluster: &Cluster) -> LiveIdentity {
    let identity = newcomer(cluster);
    let credentials = GatewayCredentials::load(&cluster.path("data/identity")).expect("a member's");
    identity.set_credentials(credentials.chain(), credentials.key().clone()).expect("they match");
    identity
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_reads_nothing_keeps_no_place() {
    let (east, _client) = cluster().await;
    let open = async || metric(east.at(port::METRICS), "isthmus_connections", "east_west").await;
    let before = open().await.expect("an answer");
    let at = At::Tls(east.at(port::EAST_WEST), member(&east), OWN_SNI.to_owned());
    let mut peer = Peer::open(at.open().await).await;
    // It makes a call that it may make, so that it may stay; then it asks for answers and does not take them.
    let call = [request("POST", grpc::GATEWAYS[1], "gateway"), field("content-type", b"application/grpc")].concat();
    peer.send(&frame(HEADERS, END_HEADERS, 1, &call)).await;
    peer.send(&frame(DATA, END_STREAM, 1, &[0; 5])).await;
    assert!(matches!(peer.outcome(1).await, Outcome::Answered(_)));
    assert!(open().await.expect("an answer") > before, "it is counted");
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(100_000);
    let sending = async { while peer.send(&pings).await {} };
    let given_up = async {
        wait_until(2 * SOON, "it to be given up", async || open().await.is_some_and(|open| open <= before)).await
    };
    tokio::join!(sending, given_up);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_calls_to_every_grpc_service_cost_nothing() {
    let (mut east, client) = cluster().await;
    let gateway = east.process().pid().expect("it runs");
    let east_west = east.at(port::EAST_WEST);
    let own = OWN_SNI.to_owned();
    let (member, trusting) = (member(&east), || newcomer(&east));
    let grpc = |what, at, calls| Grpc { what, at, calls, pid: gateway };
    let all = [
        grpc("east-west, of a member", At::Tls(east_west, member, own.clone()), &grpc::GATEWAYS),
        grpc("east-west, of a newcomer", At::Tls(east_west, trusting(), format!("join.{DOMAIN}")), &grpc::NEWCOMERS),
        grpc("control", At::Tls(east.at(port::CONTROL), trusting(), own), &grpc::SIDECARS),
        grpc("the control socket", At::Socket(east.path("us-east.sock")), &grpc::SIDECARS),
        Grpc {
            pid: client.pid(),
            ..grpc("the Workload API", At::Socket(east.path("workload.sock")), &grpc::APPLICATIONS)
        },
    ];
    for grpc in &all {
        assert!(grpc.is_alive().await, "{}", grpc.what);
        grpc.announced_too_much().await;
        grpc.no_requests().await;
        grpc.flooded().await;
    }
    assert!(east.status().await["registry"]["stale_since"].is_null() && client.is_ready().await);
}
