//! Requests in the clear: to the application beside a sidecar, and to instances without one.
//!
//! HTTP/1.1 over kept connections, or HTTP/2 with prior knowledge over one. No pings here: an application
//! may take as long as it wants.

mod hear_out;
mod kept;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode, Version};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use crate::message::server::{CONNECTION_WINDOW, HEAD_BYTES_MAX, HEADER_LIST_BYTES_MAX, SEND_BUFFER, STREAM_WINDOW};
use crate::message::{Body, reply, upgrade};
use crate::tcp::connect;
use crate::tunnel::{SendError, classify};
use hear_out::HearOut;
use kept::{Kept, Slot};

pub use kept::{CONNECTIONS_PER_ADDRESS, IDLE_MAX, IDLE_PER_ADDRESS};

/// How long a connection to an application may take. Longer than a second: where a burst overflows the
/// application's backlog, which is often short, the kernel tries again after one.
pub const CONNECT_WITHIN: Duration = Duration::from_millis(2_500);

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
    /// Sends a request whose target is in absolute form. One that asks for a protocol is in this data plane's form
    /// ([`upgrade`]), as its response is.
    ///
    /// # Errors
    /// See [`AppError`].
    pub async fn send(
        &self,
        address: SocketAddr,
        http2: bool,
        request: Request<Body>,
    ) -> Result<Response<Body>, AppError> {
        if http2 { self.send_http2(address, request).await } else { self.send_http1(address, request).await }
    }

    async fn send_http1(&self, address: SocketAddr, request: Request<Body>) -> Result<Response<Body>, AppError> {
        let mut request = origin_form(request);
        let asked = upgrade::is_asked(&request);
        if asked {
            upgrade::to_http1(&mut request);
        }
        loop {
            let reused = self.0.take(address);
            let is_reused = reused.is_some();
            let mut sender = match reused {
                Some(sender) => sender,
                None => self.open_http1(address).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) if asked && response.status().is_success() => {
                    return Ok(not_switched(address, response.status()));
                }
                Ok(response) => {
                    let returning = self.0.returning(address, sender);
                    return Ok(response.map(|body| Body::streamed(body).holding(returning)));
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

    async fn open_http1(&self, address: SocketAddr) -> Result<http1::SendRequest<Body>, AppError> {
        let slot = self.0.open(address).ok_or(AppError::Crowded(address))?;
        let stream = connect(address, CONNECT_WITHIN).await.map_err(|error| AppError::Connect(address, error))?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX).max_header_size(HEAD_BYTES_MAX);
        let opened = builder.handshake(TokioIo::new(HearOut::new(stream))).await;
        let (sender, connection) = opened.map_err(|error| AppError::Connect(address, io::Error::other(error)))?;
        drive(address, slot, connection.with_upgrades());
        Ok(sender)
    }

    async fn send_http2(&self, address: SocketAddr, request: Request<Body>) -> Result<Response<Body>, AppError> {
        let mut request = request;
        let asked = upgrade::is_asked(&request);
        loop {
            let shared = self.0.shared(address);
            let is_reused = shared.is_some();
            let mut sender = match shared {
                Some(sender) => sender,
                None => self.open_http2(address).await?,
            };
            match sender.try_send_request(request).await {
                Ok(mut response) => {
                    if asked {
                        upgrade::from_http2(&mut response);
                    }
                    return Ok(response.map(Body::streamed));
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

    async fn open_http2(&self, address: SocketAddr) -> Result<http2::SendRequest<Body>, AppError> {
        let slot = self.0.open(address).ok_or(AppError::Crowded(address))?;
        let stream = connect(address, CONNECT_WITHIN).await.map_err(|error| AppError::Connect(address, error))?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .max_send_buf_size(SEND_BUFFER);
        let opened = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = opened.map_err(|error| AppError::Connect(address, io::Error::other(error)))?;
        drive(address, slot, connection);
        self.0.share(address, sender.clone());
        Ok(sender)
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

/// An application may ignore that it was asked to switch, and answer. Between data planes a success would say that it did.
fn not_switched(address: SocketAddr, status: StatusCode) -> Response<Body> {
    let reason = format!(
        "the application at {address} answered {status} to a request for a websocket, and did not switch to it"
    );
    reply::text(StatusCode::NOT_IMPLEMENTED, &reason)
}

/// What an HTTP/1.1 origin expects: the authority in `Host`, the rest in the target.
fn origin_form(mut request: Request<Body>) -> Request<Body> {
    if let Some(authority) = request.uri().authority() {
        let host = http::HeaderValue::from_str(authority.as_str());
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
