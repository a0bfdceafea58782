//! Requests by hyper's clients.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::Failure;
use crate::federation::host;
use crate::stage::{HTTP, HTTP2};

/// Length of the body that a small GET gets.
const SMALL: usize = 300;
/// Requests after which a kept connection is given up for a new one.
const REQUESTS_MAX: usize = 500;

/// An HTTP/1.1 connection, and the requests that it had.
pub(super) struct Kept(http1::SendRequest<Full<Bytes>>, usize);

/// An HTTP/2 connection that several clients share, and the requests that it had.
pub(super) type Shared = Arc<Mutex<Option<(http2::SendRequest<Full<Bytes>>, usize)>>>;

/// A GET on the kept connection.
pub(super) async fn kept(kept: &mut Option<Kept>, to: SocketAddr, service: &str) -> Result<(), Failure> {
    let mut connection = match kept.take().filter(|Kept(send, requests)| send.is_ready() && *requests < REQUESTS_MAX) {
        Some(kept) => kept,
        None => open(to).await?,
    };
    get(&mut connection.0, service).await?;
    connection.1 += 1;
    *kept = Some(connection);
    Ok(())
}

/// A GET on a connection of its own.
pub(super) async fn fresh(to: SocketAddr, service: &str) -> Result<(), Failure> {
    get(&mut open(to).await?.0, service).await
}

/// A POST of so many bytes.
pub(super) async fn upload(to: SocketAddr, service: &str, len: usize) -> Result<(), Failure> {
    let response = open(to).await?.0.send_request(post(service, HTTP, len)?).await;
    expect(response, &len.to_string()).await
}

/// A stream of the shared connection: a GET, or a POST of so many bytes.
pub(super) async fn stream(shared: &Shared, to: SocketAddr, service: &str, len: Option<usize>) -> Result<(), Failure> {
    let mut send = {
        let mut shared = shared.lock().await;
        let usable = shared.take().filter(|(send, requests)| !send.is_closed() && *requests < REQUESTS_MAX);
        let (send, requests) = match usable {
            Some(usable) => usable,
            None => (open_http2(to).await?, 0),
        };
        shared.insert((send, requests + 1)).0.clone()
    };
    match len {
        None => expect(send.send_request(request(service, HTTP2)?).await, &"x".repeat(SMALL)).await,
        Some(len) => expect(send.send_request(post(service, HTTP2, len)?).await, &len.to_string()).await,
    }
}

async fn get(send: &mut http1::SendRequest<Full<Bytes>>, service: &str) -> Result<(), Failure> {
    expect(send.send_request(request(service, HTTP)?).await, &"x".repeat(SMALL)).await
}

fn request(service: &str, port: u16) -> Result<Request<Full<Bytes>>, Failure> {
    let authority = format!("{}:{port}", host(service));
    let mut request = Request::get(format!("http://{authority}/{SMALL}"));
    if port == HTTP {
        request = request.header(header::HOST, authority);
    }
    request.body(Full::default()).map_err(unanswered)
}

fn post(service: &str, port: u16, len: usize) -> Result<Request<Full<Bytes>>, Failure> {
    let mut post = request(service, port)?;
    *post.method_mut() = http::Method::POST;
    *post.body_mut() = Full::from(vec![b'x'; len]);
    Ok(post)
}

async fn open(to: SocketAddr) -> Result<Kept, Failure> {
    let (send, connection) = http1::handshake(TokioIo::new(dial(to).await?)).await.map_err(unanswered)?;
    // What becomes of it, its requests tell.
    drop(tokio::spawn(connection));
    Ok(Kept(send, 0))
}

async fn open_http2(to: SocketAddr) -> Result<http2::SendRequest<Full<Bytes>>, Failure> {
    let io = TokioIo::new(dial(to).await?);
    let (send, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(unanswered)?;
    drop(tokio::spawn(connection));
    Ok(send)
}

pub(super) async fn dial(to: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(to).await.map_err(unanswered)?;
    stream.set_nodelay(true).map_err(unanswered)?;
    Ok(stream)
}

async fn expect(response: hyper::Result<Response<Incoming>>, wanted: &str) -> Result<(), Failure> {
    let response = response.map_err(unanswered)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| Failure::CutShort(chain(&error)))?.to_bytes();
    match std::str::from_utf8(&body) {
        Ok(text) if status == 200 && text == wanted => Ok(()),
        text => Err(Failure::Unanswered(format!("{status}: {}", text.unwrap_or_default().trim()))),
    }
}

pub(super) fn unanswered(error: impl Error + 'static) -> Failure {
    Failure::Unanswered(chain(&error))
}

fn chain(error: &(dyn Error + 'static)) -> String {
    std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| (*error).source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
