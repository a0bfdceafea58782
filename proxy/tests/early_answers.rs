//! Answers that come before the request was read.

#![allow(missing_docs)]

mod federation;

use std::net::SocketAddr;

use federation::{ANY_PORT, Federation, HOST, HTTP, app, echo, endpoint, read_head, remote, reviews, status};
use isthmus_model::locality::Proximity::OtherRegion;
use isthmus_proxy::metrics::ServiceLabels;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TOO_LARGE: &str = "HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\nContent-Length: 10\r\n\r\ntoo large\n";

/// An application that reads no body: it answers every head and closes, which resets who still sends.
async fn hasty_app() -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                read_head(&mut stream).await;
                stream.write_all(TOO_LARGE.as_bytes()).await.expect("written");
            });
        }
    });
    address
}

/// Sends all of `megabytes` before it reads, as simple clients do. `None` when it is cut off.
async fn upload(outbound: SocketAddr, host: &str, megabytes: usize) -> Option<String> {
    let mut stream = TcpStream::connect(outbound).await.expect("connected");
    let length = megabytes << 20;
    let head = format!(
        "POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    let megabyte = vec![b'x'; 1 << 20];
    for _ in 0..megabytes {
        stream.write_all(&megabyte).await.ok()?;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_to_an_upload_is_passed_on_and_held_against_nobody() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let hasty = hasty_app().await;
    let bare = endpoint("shop/legacy", hasty, hasty, None);
    let near = federation.workload("us-east", hasty, hasty).await;
    let far = federation.workload("us-west", hasty, hasty).await;
    let gateway = federation::splicing_gateway(far.address).await;
    let terminated = federation.terminating_gateway("us-west", reviews(vec![bare.clone()], vec![])).await;
    for (way, service) in [
        ("a sidecar beside", reviews(vec![near.endpoint.clone()], vec![])),
        ("a sidecar in another cluster", reviews(vec![], vec![remote("us-west", OtherRegion, gateway)])),
        ("the other cluster's gateway", reviews(vec![], vec![remote("us-west", OtherRegion, terminated)])),
        ("straight to the application", reviews(vec![bare], vec![])),
    ] {
        let east = federation.outbound("us-east", service).await;
        for megabytes in [3, 10, 3, 10] {
            let answer = upload(east.address, &format!("{HOST}:{HTTP}"), megabytes).await.expect("no reset");
            assert_eq!(status(&answer), "413", "{way}, {megabytes} MB: {answer}");
            assert!(answer.ends_with("\r\n\r\ntoo large\n"), "{way}: {answer}");
        }
        let labels = ServiceLabels { service: federation::SERVICE.to_owned() };
        assert_eq!(east.plane.metrics().ejections.get_or_create(&labels).get(), 0, "{way}");
        assert_eq!(east.plane.metrics().retries.get_or_create(&labels).get(), 0, "{way}");
    }
}

/// The proxy's own refusals come early too.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upload_is_told_so() {
    let federation = Federation::found(&["us-east"]);
    let local = federation.workload("us-east", app("local").await, echo().await).await;
    let east = federation.outbound("us-east", reviews(vec![local.endpoint.clone()], vec![])).await;
    let answer = upload(east.address, "ratings.shop.svc.clusterset.local:9080", 10).await.expect("no reset");
    assert_eq!(status(&answer), "404", "{answer}");
}

/// An application that breaks off without an answer did not answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upload_without_an_answer_is_still_a_failure() {
    let federation = Federation::found(&["us-east"]);
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let rude = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move { read_head(&mut stream).await });
        }
    });
    let local = federation.workload("us-east", rude, rude).await;
    let east = federation.outbound("us-east", reviews(vec![local.endpoint.clone()], vec![])).await;
    let answer = upload(east.address, &format!("{HOST}:{HTTP}"), 3).await.expect("no reset");
    assert_eq!(status(&answer), "502", "{answer}");
}
