//! What hostile and broken peers send to the data plane's listeners, and that good traffic goes on.

#![allow(missing_docs)]

mod federation;

use std::time::{Duration, Instant};

use federation::{Federation, HOST, TCP, app, echo, exchange, get, remote, reviews, splicing_gateway, status};
use isthmus_model::locality::Proximity::OtherRegion;
use isthmus_proxy::handshake::HANDSHAKE_WITHIN;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_federation_is_proxied() {
    let federation = Federation::found(&["us-east"]);
    let east = federation.outbound("us-east", reviews(vec![], vec![])).await;
    let secret = app("secret").await;
    for host in
        [secret.to_string(), "169.254.169.254:80".to_owned(), "example.com:80".to_owned(), "[::1]:80".to_owned()]
    {
        for text in [
            format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
        ] {
            let text = text.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
            let response = exchange(east.address, &text).await;
            assert_eq!(status(&response), "403", "{text}: {response}");
            assert!(response.contains("neither a federation service"), "{response}");
        }
    }
    for (target, expected) in [(format!("{HOST}:81"), "404"), ("other.shop.svc.clusterset.local:80".to_owned(), "404")]
    {
        let text = format!("GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&exchange(east.address, &text).await), expected);
    }
    let text = format!("CONNECT {HOST}:{TCP} HTTP/1.1\r\nHost: {HOST}:{TCP}\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&exchange(east.address, &text).await), "503", "a service without an instance");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_first_contact_with_a_sidecar_ends_within_its_bound() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let offer = remote("us-west", OtherRegion, splicing_gateway(west.address).await);
    let east = federation.outbound("us-east", reviews(vec![], vec![offer])).await;

    // Half a ClientHello, then silence; and nothing at all.
    let start = Instant::now();
    let mut half = TcpStream::connect(west.address).await.expect("connected");
    half.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).await.expect("written");
    let mut silent = TcpStream::connect(west.address).await.expect("connected");
    // Silent connections wait out their time beside good ones.
    let mut crowd = Vec::new();
    for _ in 0..400 {
        crowd.push(TcpStream::connect(west.address).await.expect("connected"));
    }
    for (what, bytes) in [
        ("plaintext HTTP/1", &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..]),
        ("plaintext HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("zeros", &[0; 16 * 1024]),
    ] {
        let mut stream = TcpStream::connect(west.address).await.expect("connected");
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.len() < 64 && !answer.starts_with(b"HTTP"), "{what}: at most a TLS alert");
    }
    assert!(get(east.address, "/").await.contains("west|"), "good traffic goes on");
    for stream in [&mut half, &mut silent] {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    assert!(start.elapsed() < HANDSHAKE_WITHIN + Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(get(east.address, "/").await.contains("west|"));
}
