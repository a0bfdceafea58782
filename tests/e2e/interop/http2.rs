//! nghttp2's client, server and load generator: HTTP/2 in the clear, with trailers both ways and many streams at once.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use isthmus_tests::harness::{Spawn, wait_until};

use super::{LARGE, Pair, Port, installed, nginx, run, url};
use crate::federation::{SOON, host};

const SERVICE: &str = "files";
const PORT: u16 = 9080;
/// A field that the server sends after each body.
const TRAILER: &str = "x-checksum: 2cf24dba";
/// A field that the client sends after its body.
const SENT_TRAILER: &str = "x-sent: whole";

/// A file of each size, in the directory that the server serves.
const PAGE: &str = "page";
const BIG: &str = "big";

#[tokio::test(flavor = "multi_thread")]
async fn nghttp2_sees_every_stream_through() {
    let how = "apt-get install nghttp2-client nghttp2-server";
    let Some([nghttp, h2load, nghttpd]) = installed(["nghttp", "h2load", "nghttpd"], how) else { return };
    let pair = Pair::run(SERVICE, &[Port::new("http2-files", PORT)], |directory, address| {
        let files = directory.join("files");
        fs::create_dir(&files).expect("a directory");
        fs::write(files.join(PAGE), "a page\n").expect("written");
        fs::write(files.join(BIG), &*LARGE).expect("written");
        let server = Spawn::new("nghttpd", &nghttpd).args(["-v", "--no-tls", "--echo-upload", "--trailer", TRAILER]);
        let server = server.args(["-a", &address.to_string(), "-d", "files", &PORT.to_string()]);
        server.start(directory).expect("nghttpd runs")
    })
    .await;
    let upload = pair.west.path("files").join(BIG).to_str().expect("text").to_owned();
    for at in [pair.sidecar(), pair.egress(), (pair.vip, PORT).into()] {
        one_stream(&nghttp, at, &upload).await;
        many_streams(&h2load, at, &upload).await;
    }
    let what = "three uploads' trailers";
    wait_until(SOON, what, async || pair.server.stdout().matches(SENT_TRAILER).count() == 3).await;
}

/// Bodies and trailers, down and up.
async fn one_stream(nghttp: &Path, at: SocketAddr, upload: &str) {
    let authority = format!(":authority: {}:{PORT}", host(SERVICE));
    let there = |path: &str| format!("http://{at}/{path}");
    let got = run(nghttp, ["-H", &authority, &there(BIG)], &[]).await;
    assert!(got.success && got.stdout == *LARGE, "{at}: {} bytes: {}", got.stdout.len(), got.stderr);
    let echoed = run(nghttp, ["-H", &authority, "-d", upload, "--trailer", SENT_TRAILER, &there("echo")], &[]).await;
    assert!(echoed.success && echoed.stdout == *LARGE, "{at}: {} bytes: {}", echoed.stdout.len(), echoed.stderr);
    let frames = run(nghttp, ["-nv", "-H", &authority, &there(PAGE)], &[]).await.told();
    assert!(frames.contains(":status: 200") && frames.contains(TRAILER), "{at}: {frames}");
}

/// No request of many fails: more at once than the server takes streams, and than a connection to the proxy may have.
async fn many_streams(h2load: &Path, at: SocketAddr, upload: &str) {
    let (small, echo) = (url(SERVICE, PORT, &format!("/{PAGE}")), url(SERVICE, PORT, "/echo"));
    for (requests, args) in [
        (3000, &["-c", "4", "-m", "300", &small][..]),
        (1000, &["-c", "50", "--h1", &small]),
        (8, &["-c", "2", "-m", "4", "-d", upload, &echo]),
    ] {
        all_succeed(h2load, at, requests, args).await;
    }
}

async fn all_succeed(h2load: &Path, at: SocketAddr, requests: u32, args: &[&str]) {
    let (to, number) = (format!("--connect-to={at}"), format!("-n{requests}"));
    let told = run(h2load, [to.as_str(), &number].into_iter().chain(args.iter().copied()), &[]).await.told();
    let succeeded = format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout");
    let found = format!("status codes: {requests} 2xx");
    assert!(told.contains(&succeeded) && told.contains(&found), "{at} {args:?}: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_when_the_server_ends_its_connections_after_every_few() {
    let Some([h2load, nginx]) = installed(["h2load", "nginx"], "apt-get install nghttp2-client nginx-light") else {
        return;
    };
    let few = "keepalive_requests 20;";
    let start = |directory: &Path, address| nginx::start(&nginx, directory, address, few);
    let pair = Pair::run(nginx::WEB, &nginx::PORTS, start).await;
    let upload = pair.west.path("nginx/www").join(nginx::PAGE).to_str().expect("text").to_owned();
    for port in [nginx::HTTP, nginx::HTTP2] {
        let (page, file) = (url(nginx::WEB, port, &format!("/{}", nginx::PAGE)), url(nginx::WEB, port, "/files/put"));
        for at in [pair.sidecar(), (pair.vip, port).into()] {
            all_succeed(&h2load, at, 2000, &["-c", "2", "-m", "20", &page]).await;
            all_succeed(&h2load, at, 2000, &["-c", "20", "--h1", &page]).await;
            all_succeed(&h2load, at, 500, &["-c", "2", "-m", "20", "-d", &upload, "-H", ":method: PUT", &file]).await;
        }
    }
}
