//! Requests from outside on which nothing moves any more: they hold nothing for long, whoever answers pings.

#![allow(missing_docs)]

mod federation;

use std::net::SocketAddr;
use std::time::Duration;

use federation::{ANY_PORT, Federation, echo, endpoint, read_head, reviews, status};
use isthmus_tests::hostile::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, Peer, Stream, WINDOW_UPDATE, field, frame, request,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

const HOST: &str = "www.example.com";
/// How long nothing may move here.
const QUIET: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);
/// More than any buffer on the way.
const LARGE: usize = 16 << 20;
/// The reason of a stream that is of no more use.
const CANCEL: u32 = 8;

/// An application that answers what it gets, but for `/silent` nothing and for `/large` more than is read. It shows how many of
/// its connections are open.
async fn app() -> (SocketAddr, watch::Receiver<usize>) {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let (open, count) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let open = open.clone();
            tokio::spawn(async move {
                open.send_modify(|count| *count += 1);
                let _ = answer(stream).await;
                open.send_modify(|count| *count -= 1);
            });
        }
    });
    (address, count)
}

async fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let lower = head.to_ascii_lowercase();
    if lower.contains("upgrade: websocket") {
        let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(switched.as_bytes()).await?;
        let (mut read, mut write) = tokio::io::split(stream);
        return tokio::io::copy(&mut read, &mut write).await.map(drop);
    }
    let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    if head.starts_with("GET /silent") || lower.contains("chunked") {
        while stream.read_u8().await.is_ok() {}
        return Ok(());
    }
    let body = if head.starts_with("GET /large") { vec![b'x'; LARGE] } else { body };
    stream
        .write_all(format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes())
        .await?;
    stream.write_all(&body).await
}

struct Edge {
    address: SocketAddr,
    app: watch::Receiver<usize>,
    _east: federation::Outbound,
    _federation: Federation,
}

async fn edge() -> Edge {
    let federation = Federation::found(&["us-east"]);
    let (address, app) = app().await;
    let east = federation
        .outbound("us-east", reviews(vec![endpoint("shop/legacy", address, echo().await, None)], vec![]))
        .await;
    Edge { address: federation.ingress_quiet(&east, QUIET), app, _east: east, _federation: federation }
}

impl Edge {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connected")
    }

    /// Waits until nothing is held of the application any more.
    async fn is_left(&mut self, what: &str) {
        let left = timeout(SOON, self.app.wait_for(|open| *open == 0)).await;
        assert!(matches!(left, Ok(Ok(_))), "{what}: the application is held yet");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_http2_the_stream_ends_and_the_connection_stays() {
    let mut edge = edge().await;
    // What is small is read before it is sent.
    for (path, length, expected) in [("/", "1000000", 408), ("/", "1000", 408), ("/silent", "", 504)] {
        let mut peer = Peer::open(edge.connect().await).await;
        let method = if length.is_empty() { "GET" } else { "POST" };
        let mut block = request(method, path, HOST);
        if length.is_empty() {
            peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
        } else {
            block.extend(field("content-length", length.as_bytes()));
            peer.send(&frame(HEADERS, END_HEADERS, 1, &block)).await;
            peer.send(&frame(DATA, 0, 1, b"begun")).await;
        }
        assert_eq!(peer.outcome(1).await, Outcome::Answered(expected), "{method} {path} {length}");
        edge.is_left(path).await;
        peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &request("GET", "/", HOST))).await;
        assert_eq!(peer.outcome(3).await, Outcome::Answered(200), "the connection is as good as before");
    }
    // An answer that is not read: as much comes as a window is wide.
    let mut peer = Peer::open(edge.connect().await).await;
    peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/large", HOST))).await;
    assert_eq!(peer.outcome(1).await, Outcome::Answered(200));
    assert_eq!(peer.outcome(1).await, Outcome::Reset(CANCEL));
    edge.is_left("an answer that is not read").await;
    peer.send(&frame(WINDOW_UPDATE, 0, 0, &65_535_u32.to_be_bytes())).await;
    peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &request("GET", "/", HOST))).await;
    assert_eq!(peer.outcome(3).await, Outcome::Answered(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_http1_the_connection_ends() {
    let mut edge = edge().await;
    for (head, sent, expected) in [
        ("POST / HTTP/1.1\r\nContent-Length: 1000000\r\n", "begun", "408"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", "5\r\nbegun\r\n", "408"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", "5\r\nbegun\r\n0\r\n\r\n", "504"),
        ("GET /silent HTTP/1.1\r\n", "", "504"),
    ] {
        let mut client = edge.connect().await;
        client.write_all(format!("{head}Host: {HOST}\r\n\r\n{sent}").as_bytes()).await.expect("written");
        let mut answer = String::new();
        timeout(SOON, client.read_to_string(&mut answer)).await.expect("in time").expect("an end");
        assert_eq!(status(&answer), expected, "{head}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("connection: close\r\n"), "{head}: {answer}");
        edge.is_left(head).await;
    }
    let mut client = edge.connect().await;
    client.write_all(format!("GET /large HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.expect("written");
    assert_eq!(status(&read_head(&mut client).await), "200");
    edge.is_left("an answer that is not read").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_moves_goes_on_however_slowly() {
    let edge = edge().await;
    let mut client = edge.connect().await;
    client
        .write_all(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100005\r\n\r\n").as_bytes())
        .await
        .expect("written");
    for _ in 0..5 {
        client.write_all(b"x").await.expect("open");
        sleep(QUIET / 2).await;
    }
    client.write_all(&[b'x'; 100_000]).await.expect("open");
    let head = read_head(&mut client).await;
    assert_eq!(status(&head), "200", "{head}");
    // Between two requests nothing has to move.
    client.read_exact(&mut [0; 100_005]).await.expect("the body");
    sleep(2 * QUIET).await;
    client.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.expect("open");
    assert_eq!(status(&read_head(&mut client).await), "200");
    // A websocket has a bound of its own, of hours, by whichever version it was asked for.
    let mut client = edge.connect().await;
    let ask = format!(
        "GET /chat HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    client.write_all(ask.as_bytes()).await.expect("written");
    assert_eq!(status(&read_head(&mut client).await), "101");
    let mut http2 = websocket_by_http2(&edge).await;
    sleep(3 * QUIET).await;
    for stream in [&mut client as &mut dyn Stream, &mut http2] {
        stream.write_all(b"still here").await.expect("open");
        let mut back = [0; 10];
        timeout(SOON, stream.read_exact(&mut back)).await.expect("in time").expect("echoed");
        assert_eq!(&back, b"still here");
    }
}

async fn websocket_by_http2(edge: &Edge) -> impl Stream + use<> {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let io = TokioIo::new(edge.connect().await);
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("a session");
    tokio::spawn(connection);
    send.ready().await.expect("open");
    let asked = http::Request::connect(format!("http://{HOST}/chat"));
    let asked = asked.extension(hyper::ext::Protocol::from_static("websocket"));
    let asked = asked.body(http_body_util::Empty::<bytes::Bytes>::new()).expect("a request");
    let response = send.send_request(asked).await.expect("an answer");
    assert_eq!(response.status(), 200);
    // The connection lives as long as it is asked on.
    tokio::spawn(async move {
        sleep(SOON).await;
        drop(send);
    });
    TokioIo::new(hyper::upgrade::on(response).await.expect("open"))
}
