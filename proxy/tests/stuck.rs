//! Requests that are still on their way when nobody waits for their answers any more, to an application that reads nothing.

#![allow(missing_docs)]

mod federation;

use std::convert::Infallible;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use federation::{ANY_PORT, Federation, HOST, HTTP, echo, remote, reviews};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_model::catalog::AppProtocol;
use isthmus_model::locality::Proximity::OtherRegion;
use isthmus_model::snapshot::{Service, Snapshot};
use isthmus_model::traffic::{Limits, TrafficPolicy};
use isthmus_proxy::message::replay::STUCK_AFTER;
use isthmus_tests::harness::wait_until;
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How many requests the service may have under way.
const REQUESTS: usize = 2;
const SOON: Duration = Duration::from_secs(10);
/// When the data planes have noticed.
const NOTICED_WITHIN: Duration = STUCK_AFTER.saturating_mul(3);
const PIECE: usize = 64 << 10;

/// How many answers an application has begun and not ended.
type Open = watch::Sender<usize>;

/// An application of HTTP/1: answers a POST with a stream that goes on, and does not read it.
async fn http1(open: Open) -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    SockRef::from(&listener).set_recv_buffer_size(8 << 10).expect("a small buffer");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let open = open.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    stream.read_line(&mut head).await?;
                }
                if head.starts_with("GET") {
                    let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                    return stream.write_all(answer).await;
                }
                open.send_modify(|count| *count += 1);
                let mut written = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                while written.is_ok() {
                    sleep(Duration::from_millis(100)).await;
                    written = stream.write_all(b"2\r\n: \r\n").await;
                }
                open.send_modify(|count| *count -= 1);
                Ok(())
            });
        }
    });
    address
}

/// The same of HTTP/2.
async fn http2_app(open: Open) -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let open = open.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let body = if request.method() == Method::GET {
                    Full::default().boxed()
                } else {
                    open.send_modify(|count| *count += 1);
                    Endless { _request: request.into_body(), open: open.clone() }.boxed()
                };
                async move { Ok::<_, Infallible>(Response::new(body)) }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// An answer that does not end, and holds its request unread.
struct Endless {
    _request: Incoming,
    open: Open,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.open.send_modify(|count| *count -= 1);
    }
}

/// An upload without an end. It shows how many pieces were wanted of it.
struct Upload(Arc<AtomicUsize>);

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; PIECE])))))
    }
}

/// Uploads until nothing more is taken, reads the answer's head, and leaves.
async fn upload_and_leave(proxy: SocketAddr) {
    let stream = TcpStream::connect(proxy).await.expect("connected");
    let socket = SockRef::from(&stream).try_clone().expect("the same socket");
    let (mut send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("a session");
    tokio::spawn(connection);
    let wanted = Arc::new(AtomicUsize::new(0));
    let request = Request::post(format!("http://{HOST}:{HTTP}/")).body(Upload(wanted.clone())).expect("a request");
    let response = send.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let mut before = 0;
    while before < wanted.load(Ordering::Relaxed) {
        before = wanted.load(Ordering::Relaxed);
        sleep(Duration::from_millis(500)).await;
    }
    assert!(before > 1, "something was taken");
    socket.shutdown(Shutdown::Both).expect("open");
}

async fn get(proxy: SocketAddr) -> StatusCode {
    let io = TokioIo::new(TcpStream::connect(proxy).await.expect("connected"));
    let (mut send, connection) = http2::handshake(TokioExecutor::new(), io).await.expect("a session");
    tokio::spawn(connection);
    let request = Request::get(format!("http://{HOST}:{HTTP}/")).body(Full::<Bytes>::default()).expect("a request");
    timeout(SOON, send.send_request(request)).await.expect("in time").expect("an answer").status()
}

#[tokio::test(flavor = "multi_thread")]
async fn they_count_as_long_as_they_are_there_and_then_they_end() {
    for protocol in [AppProtocol::Http, AppProtocol::Http2] {
        let federation = Federation::found(&["us-east", "us-west"]);
        let (open, mut opened) = watch::channel(0);
        let app = if protocol == AppProtocol::Http2 { http2_app(open).await } else { http1(open).await };
        let west = federation.workload("us-west", app, echo().await).await;
        let speaks = |mut service: Service| {
            service.ports.iter_mut().filter(|port| port.port == HTTP).for_each(|port| port.protocol = protocol);
            service
        };
        west.view.send_modify(|view| {
            let services = view.services.values().map(|service| speaks(Service::clone(service)));
            *view = Arc::new(Snapshot::clone(view).with(services));
        });
        let gateway = federation::splicing_gateway(west.address).await;
        let limits = Limits { requests: REQUESTS, ..Limits::default() };
        let traffic = Arc::new(TrafficPolicy { limits, ..TrafficPolicy::default() });
        let service = speaks(reviews(vec![], vec![remote("us-west", OtherRegion, gateway)]));
        let east = federation.outbound("us-east", Service { traffic, ..service }).await;
        for _ in 0..REQUESTS {
            upload_and_leave(east.address).await;
        }
        assert_eq!(get(east.address).await, StatusCode::SERVICE_UNAVAILABLE, "{protocol:?}: they count yet");
        let ended = timeout(NOTICED_WITHIN, opened.wait_for(|open| *open == 0)).await;
        assert!(matches!(ended, Ok(Ok(_))), "{protocol:?}: the application is held yet");
        wait_until(SOON, "room", async || get(east.address).await == StatusCode::OK).await;
    }
}
