//! What a sidecar weighs: idle, and with many clients that stay connected and say nothing.

use std::io;
use std::time::Duration;

use isthmus_tests::bench::{Quantity, Report};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::backends;
use crate::installed::Programs;
use crate::isthmus::{Cluster, OURS, OUTBOUND, Service, host};
use crate::peer::Peer;
use crate::proxies;
use crate::stage::{HTTP, Stage, hosts, open_to_http};

const IDLE_MAX: Quantity = Quantity::Bytes(10_000_000);
const CONNECTED_MAX: Quantity = Quantity::Bytes(30_000_000);
/// Clients that stay connected.
const CLIENTS: usize = 1_000;
/// After this long without requests, what is left is what idling takes.
const IDLE_FOR: Duration = Duration::from_secs(3);
/// An answer later than this is none.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const SERVICE: &str = "plain";

pub(crate) async fn measure(programs: &Programs, report: &mut Report) -> io::Result<()> {
    let stage = Stage::new()?;
    let _backend = backends::nginx(&stage, programs).await?;
    let address = stage.ip(hosts::PLAIN);
    let service = Service { name: SERVICE, ports: &[("http", HTTP)], address, sidecar_port: None };
    let cluster = Cluster::start(&stage, hosts::GATEWAY, &[service.file()]).await?;
    let client = cluster.sidecar(&stage, "client", hosts::CLIENT).await?;
    let mut peers = vec![Peer::new(OURS, stage.at(hosts::CLIENT, OUTBOUND), vec![client])];
    peers.extend(proxies::envoy_hop(&stage, programs).await?);
    open_to_http(&peers, SERVICE).await?;
    for peer in &peers {
        sleep(IDLE_FOR).await;
        let idle = Quantity::Bytes(peer.resident()?);
        let connected = connect(peer).await.map_err(|error| peer.blamed(&error))?;
        sleep(IDLE_FOR).await;
        let many = Quantity::Bytes(peer.resident()?);
        drop(connected);
        let told = |what: &str| format!("memory: {}, {what}", peer.name);
        let (alone, busy) = (told("idle"), told(&format!("{CLIENTS} idle clients")));
        if peer.name == OURS {
            report.below(format!("{alone} (aim 6 MB)"), idle, IDLE_MAX);
            report.below(format!("{busy} (aim 20 MB)"), many, CONNECTED_MAX);
        } else {
            report.figure(alone, idle);
            report.figure(busy, many);
        }
    }
    Ok(())
}

/// Connections each of which has had one answer.
async fn connect(peer: &Peer) -> io::Result<Vec<TcpStream>> {
    let request = format!("GET / HTTP/1.1\r\nHost: {}:{HTTP}\r\n\r\n", host(SERVICE));
    let mut connected = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = TcpStream::connect(peer.at).await?;
        stream.write_all(request.as_bytes()).await?;
        let answer = timeout(ANSWER_WITHIN, answer(&mut stream)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if !answer.starts_with(b"HTTP/1.1 200 ") {
            return Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()));
        }
        connected.push(stream);
    }
    Ok(connected)
}

async fn answer(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    while !answer.ends_with(backends::BODY.as_bytes()) {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(answer)
}
