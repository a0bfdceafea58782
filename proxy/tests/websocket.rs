//! WebSocket: asked for by HTTP/1.1 and HTTP/2, of applications behind everything that there is.

#![allow(missing_docs)]

mod federation;

use std::net::SocketAddr;

use bytes::Bytes;
use federation::{ANY_PORT, Federation, HOST, HTTP, echo, endpoint, read_head, remote, reviews, status};
use http::{Method, Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_model::locality::Proximity::OtherRegion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The key and answer of RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// An application that answers every request with `head` and then echoes. What it was asked comes first.
async fn app(head: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let asked = read_head(&mut stream).await.to_ascii_lowercase();
                stream.write_all(format!("{head}\r\n\r\n{asked}").as_bytes()).await.expect("written");
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat";

/// Asks by HTTP/1.1, and sends `early` with the question.
async fn ask(outbound: SocketAddr, upgrade: &str, early: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(outbound).await.expect("connected");
    let request = format!(
        "GET http://{HOST}:{HTTP}/chat HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: {upgrade}\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n{early}"
    );
    stream.write_all(request.as_bytes()).await.expect("written");
    (read_head(&mut stream).await, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_goes_wherever_requests_go() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let app = app(SWITCHED).await;
    let west = federation.workload("us-west", app, echo().await).await;
    let bare = endpoint("shop/legacy", app, echo().await, None);
    let gateway = federation::splicing_gateway(west.address).await;
    let terminated = federation.terminating_gateway("us-west", reviews(vec![bare.clone()], vec![])).await;
    for (way, service) in [
        ("through two sidecars", reviews(vec![], vec![remote("us-west", OtherRegion, gateway)])),
        ("through a gateway", reviews(vec![], vec![remote("us-west", OtherRegion, terminated)])),
        ("to nobody's", reviews(vec![bare], vec![])),
    ] {
        let east = federation.outbound("us-east", service).await;
        // What a client sends too early is held, and arrives.
        let (head, mut stream) = ask(east.address, "websocket", "early").await;
        assert_eq!(status(&head), "101", "{way}: {head}");
        let head = head.to_ascii_lowercase();
        for field in ["connection: upgrade", "upgrade: websocket", "sec-websocket-protocol: chat"] {
            assert!(head.contains(field), "{way}: {head}");
        }
        assert!(head.contains(&ACCEPT.to_ascii_lowercase()), "{way}: {head}");
        let asked = read_head(&mut stream).await;
        assert!(asked.starts_with("get /chat http/1.1\r\n"), "{way}: {asked}");
        for field in ["connection: upgrade", "upgrade: websocket", &format!("key: {}", KEY.to_ascii_lowercase())] {
            assert!(asked.contains(field), "{way}: {asked}");
        }
        stream.write_all(b", and late").await.expect("open");
        stream.shutdown().await.expect("half closed");
        let mut echoed = String::new();
        stream.read_to_string(&mut echoed).await.expect("the end is passed on");
        assert_eq!(echoed, "early, and late", "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_clients_ask_by_extended_connect() {
    let federation = Federation::found(&["us-east"]);
    let local = federation.workload("us-east", app(SWITCHED).await, echo().await).await;
    let east = federation.outbound("us-east", reviews(vec![local.endpoint.clone()], vec![])).await;
    let stream = TcpStream::connect(east.address).await.expect("connected");
    let (mut send, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    let mut ask = async |protocol: &'static str| {
        send.ready().await.expect("open");
        let request = Request::builder().method(Method::CONNECT).uri(format!("http://{HOST}:{HTTP}/chat"));
        let request = request.extension(Protocol::from_static(protocol)).body(Empty::<Bytes>::new());
        send.send_request(request.expect("a request")).await.expect("an answer")
    };
    assert_eq!(ask("connect-udp").await.status(), StatusCode::BAD_REQUEST);
    let response = ask("websocket").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.headers().get("sec-websocket-accept").is_none(), "to a key that is not the client's");
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.expect("open"));
    stream.write_all(b"again").await.expect("open");
    stream.shutdown().await.expect("half closed");
    let mut told = String::new();
    stream.read_to_string(&mut told).await.expect("the end is passed on");
    assert!(told.contains("sec-websocket-key: ") && told.ends_with("\r\n\r\nagain"), "{told}");
}

/// Row 2 of what peers will throw at it.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_does_not_switch_opens_no_tunnel() {
    let federation = Federation::found(&["us-east", "us-west"]);
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nUpgrade: websocket", "501"),
        ("HTTP/1.1 204 No Content", "501"),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0", "403"),
        ("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0", "426"),
    ] {
        let app = app(answer).await;
        let west = federation.workload("us-west", app, echo().await).await;
        let gateway = federation::splicing_gateway(west.address).await;
        let bare = endpoint("shop/legacy", app, echo().await, None);
        for service in [reviews(vec![], vec![remote("us-west", OtherRegion, gateway)]), reviews(vec![bare], vec![])] {
            let east = federation.outbound("us-east", service).await;
            let smuggled = format!("GET http://{HOST}:{HTTP}/admin HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\n\r\n");
            let (head, mut stream) = ask(east.address, "websocket", &smuggled).await;
            assert_eq!(status(&head), expected, "{answer}: {head}");
            let mut rest = String::new();
            // A reset after a refusal is as good as an end.
            let _ = stream.read_to_string(&mut rest).await;
            assert!(
                !rest.contains("HTTP/1.1") && !rest.contains("/admin"),
                "{answer}: nothing more is answered: {rest}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_protocols_are_not_asked_for() {
    let federation = Federation::found(&["us-east"]);
    let local = federation.workload("us-east", federation::app("local").await, echo().await).await;
    let east = federation.outbound("us-east", reviews(vec![local.endpoint.clone()], vec![])).await;
    for protocol in ["h2c", "websocket, h2c", "TLS/1.0"] {
        let (head, _stream) = ask(east.address, protocol, "").await;
        assert_eq!(status(&head), "200", "an ordinary request: {head}");
    }
}
