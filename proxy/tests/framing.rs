//! Messages as they arrive at the application and at the client, byte by byte: framing, trailers, fields, and what becomes of
//! those that are none.

#![allow(missing_docs)]

mod federation;

use std::net::SocketAddr;

use bytes::Bytes;
use federation::{ANY_PORT, Federation, HOST, HTTP, Outbound, echo, endpoint, exchange, get, remote, reviews, status};
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_model::locality::Proximity::OtherRegion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// An application that tells what it was sent, whole, and answers every request with `answer`.
async fn scripted(answer: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let (told, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let mut text = String::new();
                while let Ok(byte) = stream.read_u8().await {
                    text.push(char::from(byte));
                    let chunked = text.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked\r\n");
                    if text.ends_with("\r\n\r\n") && (!chunked || text.contains("\r\n0\r\n")) {
                        let _ = told.send(std::mem::take(&mut text));
                        stream.write_all(answer.as_bytes()).await.expect("written");
                        if answer.starts_with("HTTP/1.0") {
                            return;
                        }
                    }
                }
            });
        }
    });
    (address, requests)
}

const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";

/// One application behind everything that there is: beside a sidecar of another cluster, and as nobody's instance.
async fn ways(federation: &Federation, app: SocketAddr) -> [Outbound; 2] {
    let west = federation.workload("us-west", app, echo().await).await;
    let gateway = federation::splicing_gateway(west.address).await;
    let bare = endpoint("shop/legacy", app, echo().await, None);
    // The workload's listener lives as long as its view is watched.
    tokio::spawn(async move { west.ended.await.map(|()| drop(west.view)) });
    [
        federation.outbound("us-east", reviews(vec![], vec![remote("us-west", OtherRegion, gateway)])).await,
        federation.outbound("us-east", reviews(vec![bare], vec![])).await,
    ]
}

/// A request in origin form, and what comes back until the connection ends.
async fn ask(outbound: &Outbound, line: &str, rest: &str) -> String {
    exchange(outbound.address, &format!("{line} HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\n{rest}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_none_is_the_clients_fault_alone() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let (app, _requests) = scripted(FINE).await;
    for east in ways(&federation, app).await {
        for chunk in ["0x5\r\nhello\r\n", "fffffffffffffffff\r\n", "5_\r\nhello\r\n"] {
            for _ in 0..3 {
                let answer = ask(&east, "POST /", &format!("Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n")).await;
                assert_eq!(status(&answer), "400", "{chunk:?}: {answer}");
                assert!(answer.contains("connection: close"), "{answer}");
            }
            // One that breaks off.
            let mut stream = TcpStream::connect(east.address).await.expect("connected");
            let head = format!("POST / HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel");
            stream.write_all(head.as_bytes()).await.expect("written");
            drop(stream);
        }
        let answer = get(east.address, "/").await;
        assert_eq!(status(&answer), "200", "the only instance is not to blame: {answer}");
    }
}

/// Row 2 of what peers will throw at it: what follows was never meant to be a request.
#[tokio::test(flavor = "multi_thread")]
async fn a_connect_that_is_refused_ends_the_connection() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let (app, mut requests) = scripted(FINE).await;
    let [east, _] = ways(&federation, app).await;
    let smuggled = format!("GET / HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\nConnection: close\r\n\r\n");
    for (target, fields, expected) in [
        ("nobody.shop.svc.clusterset.local:9080", "", "404"),
        ("example.org:443", "", "403"),
        (&format!("{HOST}:{HTTP}"), "Content-Length: 5\r\n", "400"),
        (&format!("{HOST}:{HTTP}"), "Transfer-Encoding: chunked\r\n", "400"),
    ] {
        let text = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n{smuggled}");
        let answer = exchange(east.address, &text).await;
        assert_eq!(status(&answer), expected, "{target}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{target}: {answer}");
    }
    assert!(requests.try_recv().is_err(), "the application heard nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_application_must_not_answer_reaches_no_client() {
    let federation = Federation::found(&["us-east", "us-west"]);
    for (answer, expected, body) in [
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "502", "not asked"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "502", "coding"),
        // The length beside the coding is none.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n",
            "200",
            "fine",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nfine", "200", "fine"),
        ("HTTP/1.0 200 OK\r\n\r\nfine", "200", "fine"),
    ] {
        let (app, _requests) = scripted(answer).await;
        for east in ways(&federation, app).await {
            let head = "Connection: close\r\n\r\n";
            let heard = ask(&east, "GET /", head).await;
            assert!(heard.starts_with(&format!("HTTP/1.1 {expected}")), "{answer:?}: {heard}");
            assert!(heard.contains(body) && heard.matches("content-length").count() <= 1, "{answer:?}: {heard}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_trailers_arrive_and_claims_in_trailers_do_not() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let (app, mut requests) = scripted(FINE).await;
    for east in ways(&federation, app).await {
        let rest = "Connection: close\r\nTE: deflate, trailers\r\nTransfer-Encoding: chunked\r\n\
                    Trailer: x-sum, x-forwarded-client-cert, x-isthmus-outcome\r\n\r\n5\r\nhello\r\n0\r\n\
                    X-Sum: 1\r\nX-Forwarded-Client-Cert: URI=spiffe://forged\r\nX-Isthmus-Outcome: denied\r\n\r\n";
        let answer = ask(&east, "GET /x", rest).await;
        assert_eq!(status(&answer), "200", "{answer}");
        let heard = requests.recv().await.expect("a request");
        let (head, body) = heard.split_once("\r\n\r\n").expect("a body");
        assert!(head.contains("te: trailers\r\n"), "{heard}");
        assert!(body.starts_with("5\r\nhello\r\n0\r\n") && body.contains("x-sum: 1\r\n"), "{heard}");
        assert!(!body.contains("forged") && !body.contains("x-isthmus"), "{heard}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_and_cookies_have_one_form_for_the_application() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let (app, mut requests) = scripted(FINE).await;
    for east in ways(&federation, app).await {
        let shouted = HOST.to_ascii_uppercase();
        let text = format!(
            "GET http://{shouted}.:{HTTP}?q=1 HTTP/1.1\r\nHost: {shouted}.:{HTTP}\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(status(&exchange(east.address, &text).await), "200");
        let heard = requests.recv().await.expect("a request");
        assert!(heard.starts_with("GET /?q=1 HTTP/1.1\r\n"), "{heard}");
        assert!(heard.contains(&format!("host: {HOST}:{HTTP}\r\n")), "{heard}");

        let stream = TcpStream::connect(east.address).await.expect("connected");
        let (mut send, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        let request =
            Request::builder().uri(format!("http://{HOST}:{HTTP}/")).header("cookie", "a=1").header("cookie", "b=2");
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        assert_eq!(send.send_request(request).await.expect("an answer").status(), 200);
        let heard = requests.recv().await.expect("a request");
        assert!(heard.contains("cookie: a=1; b=2\r\n") && heard.matches("cookie").count() == 1, "{heard}");
    }
}
