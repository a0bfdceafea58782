//! What a call costs over a link of 50 ms round trip, in round trips: warm, and the first of a fresh sidecar.
//!
//! The link is the WAN emulator's, and its round trip is taken in turns with the calls, by a plain TCP echo over a link of
//! the same shape: what timers and the machine add to the one, they add to the other.

#[path = "../e2e/federation.rs"]
#[allow(dead_code, unused_imports, clippy::panic, reason = "shared with the end-to-end tests, which use all of it")]
mod federation;
#[path = "../e2e/workload.rs"]
#[allow(dead_code, clippy::panic, reason = "shared with the end-to-end tests, which use all of it")]
mod workload;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use isthmus_tests::bench::{Quantity, Report, Samples, run};
use isthmus_tests::harness::{Loopback, http as plain};
use isthmus_tests::wan::Link;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use federation::{Cluster, federate, host, port};
use workload::{Client, HTTP, TCP, Workload, answers_from};

/// One way; there and back are the 50 ms of the target.
const ONE_WAY: Duration = Duration::from_millis(25);
/// Rounds of warm calls: one by each way and an echo.
const ROUNDS: usize = 300;
/// Fresh sidecars for each kind of first call.
const FRESH: u8 = 5;
/// The target for a warm call, without the round trip.
const OVERHEAD_MAX: Duration = Duration::from_millis(1);
/// The target for a first call, in round trips.
const COLD_TRIPS_MAX: usize = 3;
/// What is called.
const SERVICE: &str = "reviews";
/// Length of an echo's message, about that of a request.
const ECHO_LEN: usize = 200;

fn main() -> ExitCode {
    run("rtt", Box::pin(rtt()))
}

async fn rtt() -> io::Result<Report> {
    let stage = Stage::start().await?;
    let mut report = Report::default();
    let trip = warm(&stage, &mut report).await?;
    cold(&stage, &mut report, trip).await?;
    Ok(report)
}

/// Two clusters with a link to each one's gateway, and the service in the far one.
struct Stage {
    near: Cluster,
    _far: Cluster,
    _service: Workload,
    _links: [Link; 2],
    echo: Link,
    _addresses: [Loopback; 3],
}

impl Stage {
    async fn start() -> io::Result<Self> {
        let addresses = [(); 3].map(|()| Loopback::block());
        let [near_at, far_at, echo_at] = &addresses;
        let advertised = |at: &Loopback| format!("advertise: {}\n", at.address(1, port::EAST_WEST));
        let mut clusters = [
            Cluster::new("us-east", &format!("found: true\n{}", advertised(near_at))),
            Cluster::new("us-west", &advertised(far_at)),
        ];
        let link = async |at: &Loopback, to: SocketAddr| Link::start(at.address(1, port::EAST_WEST), to).await;
        let links = [
            link(near_at, clusters[0].at(port::EAST_WEST)).await?,
            link(far_at, clusters[1].at(port::EAST_WEST)).await?,
        ];
        let echo = link(echo_at, echo_server().await?).await?;
        federate(&mut clusters).await;
        let [near, far] = clusters;
        let service = Workload::exported(&far, SERVICE, 20).await;
        near.sees(SERVICE, far.name, 1).await;
        for link in links.iter().chain([&echo]) {
            link.delay(ONE_WAY);
        }
        Ok(Self { near, _far: far, _service: service, _links: links, echo, _addresses: addresses })
    }
}

async fn echo_server() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.set_nodelay(true)?;
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    Ok(address)
}

/// Warm calls by every way, in turns. Returns the round trip of the link alone.
async fn warm(stage: &Stage, report: &mut Report) -> io::Result<Duration> {
    let client = Client::run(&stage.near, "productpage", 30).await;
    answers_from(client.outbound(), SERVICE, "us-west").await;
    let vip: SocketAddr = (stage.near.vip(SERVICE).await, HTTP).into();
    let mut echo = TcpStream::connect(stage.echo.address()).await?;
    echo.set_nodelay(true)?;
    let mut by_sidecar = Kept::open(client.outbound()).await?;
    let mut by_egress = Kept::open(stage.near.at(port::EGRESS)).await?;
    let mut by_vip = Kept::open(vip).await?;
    let mut lines = Lines::open(client.outbound()).await?;
    // What is opened once is no part of a warm call.
    for _ in 0..3 {
        echo_once(&mut echo).await?;
        by_sidecar.get().await?;
        by_egress.get().await?;
        by_vip.get().await?;
        lines.say().await?;
    }
    let mut seen: [Vec<Duration>; 6] = Default::default();
    for _ in 0..ROUNDS {
        let round = [
            timed(echo_once(&mut echo)).await?,
            timed(by_sidecar.get()).await?,
            timed(by_egress.get()).await?,
            timed(by_vip.get()).await?,
            timed(lines.say()).await?,
            timed(async { Lines::open(client.outbound()).await.map(drop) }).await?,
        ];
        for (seen, took) in seen.iter_mut().zip(round) {
            seen.push(took);
        }
    }
    let [link, ways @ ..] = seen.map(Samples::from_iter);
    let trip = link.percentile(50);
    report.figure(format!("the link alone, p50 of {ROUNDS}"), Quantity::Time(trip));
    report.figure("the link alone, p99", Quantity::Time(link.percentile(99)));
    let names = ["GET by the sidecar", "GET by the gateway's egress", "GET at the virtual address"];
    let names = names.into_iter().chain(["a line through a CONNECT tunnel", "a CONNECT, until the server's greeting"]);
    for (name, way) in names.zip(&ways) {
        let over = |percent| Quantity::Time(way.percentile(percent).saturating_sub(link.percentile(percent)));
        report.below(format!("{name}, warm: p50 over the link's"), over(50), Quantity::Time(OVERHEAD_MAX));
        report.figure(format!("{name}, warm: p99 over the link's"), over(99));
    }
    Ok(trip)
}

/// The first calls of sidecars that were never called by.
async fn cold(stage: &Stage, report: &mut Report, trip: Duration) -> io::Result<()> {
    let fresh = async |number: u8| Client::run(&stage.near, "productpage", number).await;
    let (mut gets, mut posts, mut connects) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..FRESH {
        let client = fresh(40 + number).await;
        gets.push(timed(request(client.outbound(), "GET", "")).await?);
        let client = fresh(60 + number).await;
        posts.push(timed(request(client.outbound(), "POST", "{}")).await?);
        let client = fresh(80 + number).await;
        connects.push(timed(async { Lines::open(client.outbound()).await.map(drop) }).await?);
    }
    for (name, took) in [("GET", gets), ("POST", posts), ("CONNECT, until the greeting", connects)] {
        let took: Samples = took.into_iter().collect();
        report.figure(format!("{name}, first of {FRESH} sidecars: p50"), Quantity::Time(took.percentile(50)));
        report.figure(format!("{name}, first of {FRESH} sidecars: slowest"), Quantity::Time(took.max()));
        // Half a round trip or more beyond is another one; what is less is work.
        let trips = (took.percentile(50).as_secs_f64() / trip.as_secs_f64()).round();
        let most = f64::from(u16::try_from(COLD_TRIPS_MAX).unwrap_or(u16::MAX));
        report.at_most(
            format!("{name}, first of {FRESH} sidecars: round trips"),
            Quantity::Times(trips),
            Quantity::Times(most),
        );
    }
    Ok(())
}

async fn timed(work: impl Future<Output = io::Result<()>>) -> io::Result<Duration> {
    let begun = Instant::now();
    work.await?;
    Ok(begun.elapsed())
}

async fn echo_once(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&[b'x'; ECHO_LEN]).await?;
    let mut back = [0; ECHO_LEN];
    stream.read_exact(&mut back).await.map(drop)
}

/// A request of its own connection.
async fn request(proxy: SocketAddr, method: &str, body: &str) -> io::Result<()> {
    let authority = format!("{}:{HTTP}", host(SERVICE));
    let response = plain::request(proxy, method, &format!("http://{authority}/"), &authority, body).await?;
    if response.status == 200 { Ok(()) } else { Err(io::Error::other(response.body)) }
}

/// An HTTP connection that is kept.
struct Kept(SendRequest<Empty<Bytes>>);

impl Kept {
    async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self(send))
    }

    async fn get(&mut self) -> io::Result<()> {
        let authority = format!("{}:{HTTP}", host(SERVICE));
        let request = hyper::Request::get(format!("http://{authority}/")).header("host", authority);
        let request = request.body(Empty::new()).map_err(io::Error::other)?;
        self.0.ready().await.map_err(io::Error::other)?;
        let response = self.0.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        if status == 200 { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&body).into_owned())) }
    }
}

/// A conversation by CONNECT, greeted.
struct Lines(BufReader<TcpStream>);

impl Lines {
    async fn open(proxy: SocketAddr) -> io::Result<Self> {
        let stream = plain::connect_via_proxy(proxy, &format!("{}:{TCP}", host(SERVICE))).await?;
        stream.set_nodelay(true)?;
        let mut lines = Self(BufReader::new(stream));
        lines.hear().await?;
        Ok(lines)
    }

    async fn say(&mut self) -> io::Result<()> {
        self.0.write_all(b"again\n").await?;
        self.hear().await
    }

    async fn hear(&mut self) -> io::Result<()> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await? > 0 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}
