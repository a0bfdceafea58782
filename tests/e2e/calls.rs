//! Calls by every way in, to every kind of place, over HTTP and TCP; and what cannot be called.

use std::net::SocketAddr;

use isthmus_tests::harness::dns::RecordType;
use isthmus_tests::harness::{http, wait_until};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::federation::{Cluster, SOON, host, metric, port, start};
use crate::workload::{Client, HTTP, Mesh, Offer, TCP, Workload, answers_from, call, call_vip, converse};

/// Tunnel sessions that a data plane keeps to one place at most.
const SESSIONS_MAX: f64 = 4.0;

/// Two clusters with a service for every case: `reviews` in both, `details` far away only, `ratings` far away
/// without a sidecar, `ledger` far away and not exported, `local` here and without a sidecar.
struct Shop {
    east: Cluster,
    west: Cluster,
    client: Client,
    _workloads: [Workload; 6],
}

async fn shop() -> Shop {
    let [east, west] = start(["us-east", "us-west"]).await;
    let workloads = [
        Workload::exported(&east, "reviews", 20).await,
        Workload::run(&east, "local", 24, Mesh::None, Offer::Exported).await,
        Workload::exported(&west, "reviews", 20).await,
        Workload::exported(&west, "details", 21).await,
        Workload::run(&west, "ratings", 22, Mesh::None, Offer::Exported).await,
        Workload::run(&west, "ledger", 23, Mesh::Sidecar, Offer::Private).await,
    ];
    let client = Client::run(&east, "productpage", 30).await;
    for (service, cluster) in [("reviews", &east), ("local", &east), ("details", &west), ("ratings", &west)] {
        east.sees(service, cluster.name, 1).await;
    }
    Shop { east, west, client, _workloads: workloads }
}

const CLIENT: &str = "spiffe://us-east.acme.mesh/ns/shop/sa/productpage";
const GATEWAY: &str = "spiffe://us-east.acme.mesh/gateway/gw-1";

#[tokio::test(flavor = "multi_thread")]
async fn every_way_leads_to_every_place_and_the_caller_is_known_there() {
    let shop = shop().await;
    let Shop { east, west, client, .. } = &shop;
    let egress = east.at(port::EGRESS);

    // HTTP: through the own sidecar, the gateway's forward proxy, and the address that DNS gives. The
    // application sees who called: the workload, or the gateway that stood in for it.
    for (service, cluster) in [("reviews", "us-east"), ("details", "us-west"), ("ratings", "us-west")] {
        answers_from(client.outbound(), service, cluster).await;
        answers_from(egress, service, cluster).await;
        let vip = east.vip(service).await;
        for (way, story, caller) in [
            ("sidecar", call(client.outbound(), service).await, CLIENT),
            ("egress", call(egress, service).await, GATEWAY),
            ("virtual address", call_vip(vip, service).await, GATEWAY),
        ] {
            let story = story.unwrap_or_else(|error| panic!("{service} by {way}: {error}"));
            assert_eq!((&story["service"], &story["cluster"]), (&service.into(), &cluster.into()), "{way}: {story}");
            assert_eq!(story["caller"], caller, "{service} by {way}: {story}");
        }

        // TCP, by CONNECT and directly. The server speaks first: no way may wait for the client's bytes.
        let authority = format!("{}:{TCP}", host(service));
        let expected = format!("hello from {cluster}/{service}");
        for proxy in [client.outbound(), egress] {
            let stream = http::connect_via_proxy(proxy, &authority).await.expect("a tunnel");
            assert_eq!(converse(stream).await.expect("a greeting and an echo"), expected);
        }
        let stream = TcpStream::connect((vip, TCP)).await.expect("the gateway listens there");
        assert_eq!(converse(stream).await.expect("a greeting and an echo"), expected);
    }

    // Nearest first: the other cluster's instance gets nothing while the own one is well.
    for _ in 0..20 {
        assert_eq!(call(client.outbound(), "reviews").await.expect("an answer")["cluster"], "us-east");
    }
    // Without a sidecar on either side, the own gateway is all there is; nobody is known then.
    let story = call(egress, "local").await.expect("an answer");
    assert_eq!(story["cluster"], "us-east");
    private_services_stay_private(east, west, client).await;
    only_the_federation_is_proxied(east, client).await;
    many_requests_share_a_tunnel(client).await;
}

/// What is not exported does not exist elsewhere, by any way.
async fn private_services_stay_private(east: &Cluster, west: &Cluster, client: &Client) {
    assert!(west.ask(["services"]).await.to_string().contains("shop/ledger"));
    assert_eq!(east.dig(&host("ledger"), RecordType::A).await.code, 3);
    for proxy in [client.outbound(), east.at(port::EGRESS)] {
        let error = call(proxy, "ledger").await.expect_err("not exported");
        assert!(error.starts_with("404: no cluster exports"), "{error}");
        let error = http::connect_via_proxy(proxy, &format!("{}:{TCP}", host("ledger"))).await.expect_err("refused");
        assert!(error.to_string().starts_with("HTTP/1.1 404"), "{error}");
    }
}

/// Neither listener is an open proxy, least of all to the machine itself.
async fn only_the_federation_is_proxied(east: &Cluster, client: &Client) {
    let admin = east.at(port::ADMIN).to_string();
    for proxy in [client.outbound(), east.at(port::EGRESS)] {
        for target in
            [admin.as_str(), "127.0.0.1:22", "[::1]:22", "169.254.169.254:80", "localhost:80", "example.com:443"]
        {
            let error = http::connect_via_proxy(proxy, target).await.expect_err("refused");
            assert!(error.to_string().starts_with("HTTP/1.1 403"), "{target}: {error}");
            let answer = http::get_via_proxy(proxy, &format!("http://{target}/")).await.expect("an answer");
            assert_eq!(answer.status, 403, "{target}: {}", answer.body);
        }
        let error = http::connect_via_proxy(proxy, &format!("{}:22", host("details"))).await.expect_err("no such port");
        assert!(error.to_string().starts_with("HTTP/1.1 404"), "{error}");
    }
    let vip = east.vip("details").await;
    assert!(TcpStream::connect((vip, 22)).await.is_err(), "only a service's ports are listened on");
}

/// A warm call makes no handshake: keep-alive towards the client, and the same session to the far side.
async fn many_requests_share_a_tunnel(client: &Client) {
    let before = tunnels(client).await;
    let stream = TcpStream::connect(client.outbound()).await.expect("it listens");
    let mut stream = BufReader::new(stream);
    let request = format!("GET http://{0}:{HTTP}/ HTTP/1.1\r\nHost: {0}:{HTTP}\r\n\r\n", host("details"));
    for _ in 0..50 {
        stream.get_mut().write_all(request.as_bytes()).await.expect("open");
        let (status, body) = response(&mut stream).await;
        assert!(status.starts_with("HTTP/1.1 200"), "{status}");
        assert!(body.contains("us-west"), "{body}");
    }
    for _ in 0..10 {
        call(client.outbound(), "details").await.expect("a new connection to the sidecar, the same tunnel");
    }
    let after = tunnels(client).await;
    assert!(before >= 1.0 && after <= before.max(SESSIONS_MAX), "{before} sessions before, {after} after");
}

async fn tunnels(client: &Client) -> f64 {
    metric(client.status(), "isthmus_tunnel_sessions", "").await.expect("metrics")
}

/// The next response on a connection: its status line and its body.
async fn response(stream: &mut BufReader<TcpStream>) -> (String, String) {
    let (mut status, mut length) = (String::new(), 0);
    stream.read_line(&mut status).await.expect("a status line");
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.expect("a header line");
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.expect("a body");
    (status, String::from_utf8(body).expect("text"))
}

/// A listener on a virtual address follows the snapshot: it opens with the export and closes with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_address_is_listened_on_as_long_as_the_service_is_offered() {
    let [east] = start(["us-east"]).await;
    let _workload = Workload::run(&east, "reviews", 20, Mesh::None, Offer::Exported).await;
    let vip: SocketAddr = (east.vip("reviews").await, HTTP).into();
    wait_until(SOON, "the address to be served", async || call_vip(vip.ip(), "reviews").await.is_ok()).await;
    east.remove("reviews.yaml");
    wait_until(SOON, "the address to be closed", async || TcpStream::connect(vip).await.is_err()).await;
}
