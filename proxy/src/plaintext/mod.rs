//! Requests in the clear: to the application beside a sidecar, and to instances without one.
//!
//! HTTP/1.1 over kept connections, or HTTP/2 with prior knowledge over one, and over further ones when it has as many streams as the
//! application takes: streams that stay must not hold up all others. No pings here: an application may take as long as it
//! wants.

pub(crate) mod deliver;
mod hear_out;
mod kept;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, COOKIE, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use isthmus_identity::tls::Guarded;
use tokio::sync::Notify;

use crate::message::authority::check_framing;
use crate::message::replay::Replay;
use crate::message::server::{HEAD_BYTES_MAX, HEADER_LIST_BYTES_MAX, SHARED_SEND_BUFFER, SHARED_WINDOW, STREAM_WINDOW};
use crate::message::{Body, reply, upgrade};
use crate::tcp::connect;
use crate::tunnel::{SendError, classify};
use hear_out::HearOut;
use kept::{Http1, Kept, Place, Shared, Slot};

pub use kept::{CONNECTIONS_PER_ADDRESS, IDLE_MAX, IDLE_PER_ADDRESS};

/// How long a connection to an application may take. Longer than a second: where a burst overflows the
/// application's backlog, which is often short, the kernel tries again after one.
pub const CONNECT_WITHIN: Duration = Duration::from_millis(2_500);

/// How often one request is sent again that an HTTP/2 application did not look at: it ended the connection with a GOAWAY, as many
/// do after a number of requests, or refused the stream. All that were on their way meet that at once, and the next
/// connection may be full again before the last of them is on it.
pub const TURNED_AWAY_MAX: usize = 8;

/// Why the application gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// It cannot be connected to.
    #[error("cannot connect to the application at {0}: {1}; check that it runs and listens there")]
    Connect(SocketAddr, io::Error),
    /// It has all the connections that it may have.
    #[error("the application at {0} has {CONNECTIONS_PER_ADDRESS} connections already")]
    Crowded(SocketAddr),
    /// The connection failed.
    #[error("the application at {0} did not answer: {1}")]
    Exchange(SocketAddr, SendError),
}

impl AppError {
    /// Whether the application cannot have seen the request.
    #[must_use]
    pub fn never_sent(&self) -> bool {
        !matches!(self, Self::Exchange(_, SendError::Broken(_)))
    }
}

/// The connections of one process. Clones share them.
#[derive(Clone, Default)]
pub struct Pool(Arc<Kept>);

impl Pool {
    /// Sends a request whose target is in absolute form, as `attempt` makes it around `body`. One that asks for a protocol is in
    /// this data plane's form ([`upgrade`]), as its response is.
    ///
    /// # Errors
    /// See [`AppError`].
    pub async fn send(
        &self,
        address: SocketAddr,
        http2: bool,
        body: &Replay,
        attempt: impl Fn() -> Request<Body>,
    ) -> Result<Response<Body>, AppError> {
        if !http2 {
            return self.send_http1(address, body, attempt()).await;
        }
        for _ in 0..TURNED_AWAY_MAX {
            match self.send_http2(address, body, attempt()).await {
                Err(AppError::Exchange(_, SendError::NotSent(error))) if body.is_intact() => {
                    tracing::debug!(%address, %error, "the application turned a request away; sent again");
                }
                done => return done,
            }
        }
        self.send_http2(address, body, attempt()).await
    }

    async fn send_http1(
        &self,
        address: SocketAddr,
        body: &Replay,
        request: Request<Body>,
    ) -> Result<Response<Body>, AppError> {
        let asked = upgrade::is_asked(&request);
        let mut request = http1_form(request);
        loop {
            let reused = self.0.take(address);
            let is_reused = reused.is_some();
            let mut used = match reused {
                Some(idle) => idle,
                None => self.open_http1(address).await?,
            };
            match used.sender.try_send_request(request).await {
                Ok(response) => {
                    let response = match check(address, asked, response) {
                        Ok(response) => response,
                        Err(refusal) => {
                            // Whatever of the request is on its way yet.
                            used.cut.notify_one();
                            return Ok(*refusal);
                        }
                    };
                    let returning = self.0.returning(address, used);
                    return Ok(response.map(|answer| body.keep(Body::streamed(answer), returning)));
                }
                Err(mut error) => match error.take_message() {
                    // The application closed the kept connection just before.
                    Some(unsent) if is_reused => request = unsent,
                    returned => {
                        let error = classify(error.into_error(), returned.is_some());
                        return Err(AppError::Exchange(address, error));
                    }
                },
            }
        }
    }

    async fn open_http1(&self, address: SocketAddr) -> Result<Http1, AppError> {
        let slot = self.0.open(address).ok_or(AppError::Crowded(address))?;
        let stream = connect(address, CONNECT_WITHIN).await.map_err(|error| AppError::Connect(address, error))?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX).max_header_size(HEAD_BYTES_MAX);
        let opened = builder.handshake(TokioIo::new(HearOut::new(stream))).await;
        let (sender, connection) = opened.map_err(|error| AppError::Connect(address, io::Error::other(error)))?;
        let cut = Arc::new(Notify::new());
        let told = cut.clone();
        drive(address, slot, async move {
            tokio::select! {
                biased;
                ended = connection.with_upgrades() => ended,
                () = told.notified() => Ok(()),
            }
        });
        Ok(Http1 { sender, cut })
    }

    async fn send_http2(
        &self,
        address: SocketAddr,
        body: &Replay,
        request: Request<Body>,
    ) -> Result<Response<Body>, AppError> {
        let mut request = request;
        let asked = upgrade::is_asked(&request);
        loop {
            let shared = self.0.shared(address);
            let is_reused = shared.is_some();
            let (mut sender, place) = match shared {
                Some(shared) => shared,
                None => self.open_http2(address).await?,
            };
            match sender.try_send_request(request).await {
                Ok(mut response) => {
                    place.answered();
                    if asked {
                        upgrade::from_http2(&mut response);
                    }
                    return Ok(response.map(|answer| body.keep(Body::streamed(answer), place)));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if is_reused => request = unsent,
                    returned => {
                        let error = classify(error.into_error(), returned.is_some());
                        return Err(AppError::Exchange(address, error));
                    }
                },
            }
        }
    }

    async fn open_http2(&self, address: SocketAddr) -> Result<(http2::SendRequest<Body>, Place), AppError> {
        let slot = self.0.open(address).ok_or(AppError::Crowded(address))?;
        let stream = connect(address, CONNECT_WITHIN).await.map_err(|error| AppError::Connect(address, error))?;
        let streams = self.0.streams(address);
        let under_way = streams.under_way();
        let stream = Guarded::new(stream, async move { under_way.lost().await });
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_max_send_streams(streams.limit())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(SHARED_WINDOW)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .max_send_buf_size(SHARED_SEND_BUFFER);
        let opened = builder.handshake(TokioIo::new(stream)).await;
        let (sender, mut connection) = opened.map_err(|error| AppError::Connect(address, io::Error::other(error)))?;
        let shared = Shared::new(sender, streams.clone());
        drive(address, slot, async move {
            let mut ended = poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                streams.set_limit(connection.current_max_send_streams());
                polled
            });
            tokio::select! {
                ended = &mut ended => return ended,
                // Nothing else leads here when the application says how many it takes.
                () = streams.first_answer() => {}
            }
            ended.await
        });
        Ok(self.0.share(address, shared))
    }
}

/// Drives a connection to its end; `slot` is what it counts as.
fn drive(address: SocketAddr, slot: Slot, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%address, %error, "connection to the application ended");
        }
        drop(slot);
    });
}

/// What an application must not answer is answered in its place.
fn check(
    address: SocketAddr,
    asked: bool,
    mut response: Response<Incoming>,
) -> Result<Response<Incoming>, Box<Response<Body>>> {
    let refuse =
        |status, reason: &str| Err(Box::new(reply::text(status, &format!("the application at {address} {reason}"))));
    let status = response.status();
    if asked && status.is_success() {
        // It may ignore that it was asked. Between data planes a success would say that it did as it was.
        let reason = format!("answered {status} to a request for a websocket, and did not switch to it");
        return refuse(StatusCode::NOT_IMPLEMENTED, &reason);
    }
    if status.is_informational() && !(asked && upgrade::has_switched(&response)) {
        return refuse(StatusCode::BAD_GATEWAY, "switched to a protocol that it was not asked for");
    }
    if check_framing(response.headers()).is_err() {
        return refuse(StatusCode::BAD_GATEWAY, "uses a transfer coding other than chunked");
    }
    // Several that agree are one; hyper has compared them, and knows the length (RFC 9110 §8.6).
    let lengths = response.headers().get_all(CONTENT_LENGTH);
    if lengths.iter().count() > 1 || lengths.iter().any(|length| length.as_bytes().contains(&b',')) {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}

/// Brings a request into the form that HTTP/1.1 has for what HTTP/2 says in other ways.
fn http1_form(mut request: Request<Body>) -> Request<Body> {
    if upgrade::is_asked(&request) {
        upgrade::to_http1(&mut request);
    } else if !request.body().is_end_stream() && request.body().size_hint().exact().is_none() {
        // hyper drops the body of a GET that says nothing about it.
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    // RFC 9113 §8.2.3.
    let mut cookies = request.headers().get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    if let (Some(first), Some(second)) = (cookies.next(), cookies.next()) {
        let all: Vec<&[u8]> = [first, second].into_iter().chain(cookies).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            request.headers_mut().insert(COOKIE, joined);
        }
    }
    origin_form(request)
}

/// What an HTTP/1.1 origin expects: the authority in `Host`, the rest in the target.
fn origin_form(mut request: Request<Body>) -> Request<Body> {
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str());
        if let Ok(host) = host {
            request.headers_mut().insert(http::header::HOST, host);
        }
    }
    if let Some(target) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = http::Uri::from(target);
    }
    *request.version_mut() = Version::HTTP_11;
    request
}
