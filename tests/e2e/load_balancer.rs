//! A gateway behind a TCP load balancer, a real one: HAProxy, with either version of the PROXY protocol.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use isthmus_tests::harness::{Process, Spawn, wait_for, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::federation::{Cluster, SOON, federate, metric, port};
use crate::workload::{Client, Workload, answers_from};

/// Where the load balancer is in its cluster's block.
const BALANCER_HOST: u8 = 9;
/// The reason that failed handshakes are counted under.
const NO_HEADER: &str = "reason=\"proxy_header\"";

/// HAProxy before the east-west port of `cluster`, or nothing where it is not installed.
async fn balance(cluster: &Cluster, option: &str) -> Option<Process> {
    let (host, to) = (cluster.host(BALANCER_HOST), cluster.at(port::EAST_WEST));
    let at = SocketAddr::from((host, port::EAST_WEST));
    let config = format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
         listen east_west\n  bind {at}\n  source {host}\n  server gateway {to} {option}\n"
    );
    fs::write(cluster.path("haproxy.cfg"), config).expect("written");
    let args = ["-db", "-f", "haproxy.cfg"];
    let process = Spawn::new("haproxy", Path::new("haproxy")).args(args).start(cluster.directory()).ok()?;
    wait_until(SOON, "HAProxy to listen", async || TcpStream::connect(at).await.is_ok()).await;
    Some(process)
}

/// A cluster whose gateway is reached through its load balancer.
fn behind(name: &'static str) -> Cluster {
    let cluster = Cluster::new(name, "");
    let host = cluster.host(BALANCER_HOST);
    let extra = format!("found: true\nadvertise: {host}:{}\nproxy_protocol: {{east_west: [{host}]}}", port::EAST_WEST);
    fs::write(cluster.path("gateway.yaml"), cluster.config(crate::federation::DOMAIN, name, &extra)).expect("written");
    cluster
}

/// Says `words` from `source`, and hears that the connection is closed.
async fn is_turned_away(source: Ipv4Addr, to: SocketAddr, words: &[u8]) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((source, 0).into()).expect("a loopback address");
    let mut stream = socket.connect(to).await.expect("connected");
    stream.write_all(words).await.expect("written");
    let heard = timeout(SOON, stream.read(&mut [0; 64])).await.expect("it is closed");
    assert!(matches!(heard, Ok(0) | Err(_)), "{heard:?}");
}

/// A federation whose founder is reached through HAProxy.
async fn through_haproxy(option: &str) {
    let east = behind("us-east");
    let Some(_balancer) = balance(&east, option).await else {
        return eprintln!("SKIPPED: there is no haproxy to stand before a gateway");
    };
    let mut clusters = [east, Cluster::new("us-west", "")];
    // The newcomer joins, follows the registry, and calls through the load balancer: it is told no other address.
    federate(&mut clusters).await;
    let [east, west] = clusters;
    let _reviews = Workload::exported(&east, "reviews", 20).await;
    let client = Client::run(&west, "productpage", 30).await;
    answers_from(client.outbound(), "reviews", "us-east").await;
    let count = async || metric(east.at(port::METRICS), "isthmus_handshakes_failed_total", NO_HEADER).await;
    let before = count().await.expect("counted from the start");

    // The load balancer's address without a header: nothing is guessed.
    let balancer = east.host(BALANCER_HOST);
    is_turned_away(balancer, east.at(port::EAST_WEST), b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03").await;
    wait_for(SOON, "the missing header to be counted", async || count().await.filter(|now| *now > before)).await;
    // Another address with one: it is not looked at.
    is_turned_away(east.host(40), east.at(port::EAST_WEST), b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n").await;
    assert_eq!(count().await, Some(before + 1.0), "that is no TLS, and no missing header");
    // What comes directly and properly is served beside it.
    answers_from(client.outbound(), "reviews", "us-east").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_joined_and_called_through_haproxy_with_version_1() {
    through_haproxy("send-proxy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_joined_and_called_through_haproxy_with_version_2() {
    through_haproxy("send-proxy-v2 proxy-v2-options crc32c,unique-id").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_client_and_not_the_load_balancer() {
    let mut east = behind("us-east");
    let Some(_balancer) = balance(&east, "send-proxy-v2").await else {
        return eprintln!("SKIPPED: there is no haproxy to stand before a gateway");
    };
    let args = ["gateway", "--config", "gateway.yaml", "--log", "isthmus=debug"];
    east.gateway = Some(east.spawn("gateway", args));
    east.ready().await;
    let client = east.host(41);
    let to = SocketAddr::from((east.host(BALANCER_HOST), port::EAST_WEST));
    is_turned_away(client, to, b"GET / HTTP/1.1\r\n\r\n").await;
    east.process().wait_for_output(SOON, &format!("cannot be routed peer={client}:")).await;
}
