//! CONNECT: bytes to ports that take bytes, requests to ports that take requests.

#![allow(missing_docs)]

mod federation;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use federation::session::session;
use federation::{Federation, HOST, HTTP, TCP, app, echo, endpoint, read_head, remote, reviews, status};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_model::locality::Proximity::OtherRegion;
use isthmus_proxy::metrics::{Direction, DirectionLabels};
use isthmus_tests::harness::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const FORGED: &str = "X-Forwarded-Client-Cert: URI=spiffe://us-east.acme.mesh/ns/shop/sa/admin\r\n";
const CALLER: &str = "spiffe://us-east.acme.mesh/ns/shop/sa/productpage";

/// Opens a CONNECT to the HTTP port and returns what answers to `inside`.
async fn through_connect(outbound: SocketAddr, inside: &str) -> String {
    let mut stream = TcpStream::connect(outbound).await.expect("connected");
    let opening = format!("CONNECT {HOST}:{HTTP} HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\n\r\n");
    stream.write_all(opening.as_bytes()).await.expect("written");
    let head = read_head(&mut stream).await;
    assert_eq!(status(&head), "200", "{head}");
    stream.write_all(inside.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    // A reset after a refusal is as good as an end.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_cannot_be_forged_through_a_connect_to_an_http_port() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let bare = endpoint("shop/legacy", app("bare").await, echo().await, None);
    let gateway = federation::splicing_gateway(west.address).await;
    let terminated = federation.terminating_gateway("us-west", reviews(vec![bare.clone()], vec![])).await;
    for (landing, service, caller) in [
        ("a sidecar", reviews(vec![], vec![remote("us-west", OtherRegion, gateway)]), CALLER),
        ("its gateway", reviews(vec![], vec![remote("us-west", OtherRegion, terminated)]), CALLER),
        ("nobody's", reviews(vec![bare], vec![]), ""),
    ] {
        let east = federation.outbound("us-east", service).await;
        let inside = format!("GET /x HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\n{FORGED}Connection: close\r\n\r\n");
        let answer = through_connect(east.address, &inside).await;
        assert_eq!(status(&answer), "200", "{landing}: {answer}");
        assert!(answer.contains("|GET /x HTTP/1.1|") && answer.contains(caller), "{landing}: {answer}");
        assert!(!answer.contains("sa/admin"), "{landing}: {answer}");
    }
}

/// The CONNECT's target decides, for routing and policy.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_within_a_connect_does_not_lead_elsewhere() {
    let federation = Federation::found(&["us-east"]);
    let local = federation.workload("us-east", app("local").await, echo().await).await;
    let east = federation.outbound("us-east", reviews(vec![local.endpoint.clone()], vec![])).await;
    for (host, expected) in [
        ("ratings.shop.svc.clusterset.local:9080", "421"),
        ("as-the-client-calls-it", "200"),
        ("x@y", "400"),
        ("two\r\nHost: hosts", "400"),
    ] {
        let inside = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = through_connect(east.address, &inside).await;
        assert_eq!(status(&answer), expected, "{host}: {answer}");
        assert!(expected != "200" || answer.contains(&format!("|{HOST}:{HTTP}|")), "the canonical one: {answer}");
    }
    let nested = format!("CONNECT {HOST}:{HTTP} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let answer = through_connect(east.address, &nested).await;
    assert!(status(&answer) == "400" && answer.contains("a CONNECT within it"), "{answer}");
    let answer = through_connect(east.address, "\u{16}\u{3}\u{1}\r\n\r\n").await;
    assert_eq!(status(&answer), "400", "what is not HTTP is nothing for the application: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_within_a_connect_is_requests_too() {
    let federation = Federation::found(&["us-east"]);
    let local = federation.workload("us-east", app("local").await, echo().await).await;
    let east = federation.outbound("us-east", reviews(vec![local.endpoint.clone()], vec![])).await;
    let mut stream = TcpStream::connect(east.address).await.expect("connected");
    stream.write_all(format!("CONNECT {HOST}:{HTTP} HTTP/1.1\r\n\r\n").as_bytes()).await.expect("written");
    assert_eq!(status(&read_head(&mut stream).await), "200");
    let (mut send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("a session");
    tokio::spawn(connection);
    let request = Request::get(format!("http://{HOST}:{HTTP}/h2")).body(Empty::<Bytes>::new()).expect("a request");
    let response = send.send_request(request).await.expect("a response");
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let body = String::from_utf8_lossy(&body);
    assert!(body.starts_with("local|GET /h2 HTTP/1.1|") && body.contains(CALLER), "{body}");
}

/// Each is as good as a client's own connection, and may hold as much.
#[tokio::test(flavor = "multi_thread")]
async fn what_http2_clients_open_by_connect_counts_as_connections() {
    const TUNNELS: usize = 20;
    let federation = Federation::found(&["us-east"]);
    let local = federation.workload("us-east", app("local").await, echo().await).await;
    let east = federation.outbound("us-east", reviews(vec![local.endpoint.clone()], vec![])).await;
    let labels = DirectionLabels { direction: Direction::Outbound };
    let open = east.plane.metrics().connections.get_or_create_owned(&labels);
    let stream = TcpStream::connect(east.address).await.expect("connected");
    let (mut send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("open");
    let client = tokio::spawn(connection);
    let mut tunnels = Vec::new();
    for number in 0..TUNNELS {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = Method::CONNECT;
        let port = if number % 2 == 0 { HTTP } else { TCP };
        *request.uri_mut() = Uri::try_from(format!("{HOST}:{port}")).expect("an authority");
        let response = send.send_request(request).await.expect("a response");
        assert_eq!(response.status(), 200);
        tunnels.push(hyper::upgrade::on(response).await.expect("a tunnel"));
    }
    assert_eq!(open.get(), 1 + i64::try_from(TUNNELS).expect("few"));
    client.abort();
    drop((send, tunnels));
    wait_until(Duration::from_secs(10), "all of them to be given back", async || open.get() == 0).await;
}

/// Whatever the caller's side lets through: an old one, or one that is not ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_landing_side_refuses_connect_to_a_port_that_speaks_http() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let bare = endpoint("shop/legacy", app("bare").await, echo().await, None);
    let gateway = federation.terminating_gateway("us-west", reviews(vec![bare], vec![])).await;
    for landing in [west.address, gateway] {
        let mut session = session(&federation, landing).await;
        for (port, expected) in [(HTTP, StatusCode::FORBIDDEN), (TCP, StatusCode::OK)] {
            let mut request = Request::new(Empty::<Bytes>::new());
            *request.method_mut() = Method::CONNECT;
            *request.uri_mut() = Uri::try_from(format!("{HOST}:{port}")).expect("an authority");
            let response = session.send_request(request).await.expect("a response");
            assert_eq!(response.status(), expected, "port {port}");
            if expected == StatusCode::FORBIDDEN {
                let text = response.into_body().collect().await.expect("a body").to_bytes();
                assert_eq!(text, "port 9080 of shop/reviews speaks HTTP: it takes requests, and no CONNECT\n");
            }
        }
    }
}

/// A session takes so many streams, and tunnels stay: one more must not wait on it for another to end.
#[tokio::test(flavor = "multi_thread")]
async fn more_tunnels_at_once_than_a_session_takes_are_all_opened() {
    const TUNNELS: usize = 400;
    isthmus_proxy::accept::raise_file_limit();
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let gateway = federation::splicing_gateway(west.address).await;
    let east = federation.outbound("us-east", reviews(vec![], vec![remote("us-west", OtherRegion, gateway)])).await;
    let mut opening = JoinSet::new();
    for _ in 0..TUNNELS {
        let outbound = east.address;
        opening.spawn(async move {
            let mut stream = TcpStream::connect(outbound).await.expect("connected");
            let connect = format!("CONNECT {HOST}:{TCP} HTTP/1.1\r\nHost: {HOST}:{TCP}\r\n\r\n");
            stream.write_all(connect.as_bytes()).await.expect("written");
            (read_head(&mut stream).await, stream)
        });
    }
    let opened = timeout(Duration::from_secs(20), opening.join_all()).await.expect("none waits for another to end");
    assert!(opened.iter().all(|(head, _)| status(head) == "200"), "{:?}", opened.first());
}
