//! The admin listeners: a loopback port and a Unix socket.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONNECTION;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use isthmus_proxy::limits::{Gate, Limits};
use isthmus_proxy::message::authority::check_framing;
use isthmus_proxy::unix_socket;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{AdminState, Surface, router};
use crate::config::GatewayConfig;

/// Connections to one listener at a time. Operators and scrapers are few; when there are more, the oldest makes room, so that those
/// who say nothing keep nobody out.
const CONNECTIONS_MAX: usize = 64;
/// How long a request's head may take. It comes from the same machine or from a scraper next door.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last. Longer than any answer takes, so that silent ones do not use up the limit.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(60);
/// What a request's head may take up.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The admin socket is for the gateway's own user.
const SOCKET_MODE: u32 = 0o600;

/// Why the admin listeners did not come up.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The port.
    #[error("cannot listen on {address} (`listen.admin`): {source}; does another gateway use it?")]
    Port {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The socket.
    #[error(
        "cannot create {path} (the admin socket in `data_dir`): {source}; is the directory writable, and its path short (under 100 characters)?"
    )]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Someone answers on the socket.
    #[error("another gateway answers on {0}: each needs a `data_dir` of its own")]
    SocketTaken(PathBuf),
}

/// The admin listeners, bound.
#[derive(Debug)]
pub struct AdminServer {
    port: TcpListener,
    address: SocketAddr,
    socket: UnixListener,
    path: PathBuf,
}

impl AdminServer {
    /// Binds the port, and the socket in the data directory, which has to exist. A socket that a killed
    /// gateway left behind is replaced.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(config: &GatewayConfig) -> Result<Self, BindError> {
        let address = config.listen.admin;
        let fail = |source| BindError::Port { address, source };
        let port = TcpListener::bind(address).await.map_err(fail)?;
        let bound = port.local_addr().map_err(fail)?;
        let path = config.admin_socket();
        if unix_socket::answers(&path) {
            return Err(BindError::SocketTaken(path));
        }
        let socket =
            unix_socket::bind(&path, SOCKET_MODE).map_err(|source| BindError::Socket { path: path.clone(), source })?;
        Ok(Self { port, address: bound, socket, path })
    }

    /// The port's address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop, and then until open requests are answered.
    pub async fn serve(self, state: AdminState, shutdown: CancellationToken) {
        let port = serve_http(self.port, router(state.clone(), Surface::Loopback), shutdown.clone());
        let socket = serve_http(self.socket, router(state, Surface::Socket), shutdown);
        tokio::join!(port, socket);
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the admin socket was gone already");
        }
    }
}

/// Serves a small HTTP API within bounds, until told to stop and then until open requests are answered.
pub async fn serve_http<L: Listener>(mut listener: L, router: Router, shutdown: CancellationToken) {
    let gate = Gate::new(Limits::by_age(CONNECTIONS_MAX), Gauge::default());
    let router = router.layer(middleware::from_fn(refuse_other_codings));
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            (stream, _) = listener.accept() => stream,
        };
        // Where they come from does not matter: of a socket in the file system, nobody knows.
        let entry = gate.enter_when_left(Ipv4Addr::UNSPECIFIED.into()).await;
        let (pending, router, shutdown) = (entry.pend(), router.clone(), shutdown.clone());
        connections.spawn(async move {
            let _entry = entry;
            let served = tokio::select! {
                served = tokio::time::timeout(CONNECTION_AGE_MAX, connection::<L>(stream, router, shutdown)) => served,
                () = pending.displaced() => return,
            };
            if let Ok(Err(error)) = served {
                tracing::debug!(%error, "a connection to the admin API or metrics broke");
            }
        });
    }
    connections.close();
    connections.wait().await;
}

/// Refuses what is framed in a way that is not understood, as the data plane does: hyper takes any list of codings that ends in
/// `chunked`.
async fn refuse_other_codings(request: Request, next: Next) -> Response {
    match check_framing(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => (StatusCode::BAD_REQUEST, [(CONNECTION, "close")], format!("{error}\n")).into_response(),
    }
}

async fn connection<L: Listener>(stream: L::Io, router: Router, shutdown: CancellationToken) -> hyper::Result<()> {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    let serving = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        served = serving.as_mut() => return served,
        () = shutdown.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    serving.await
}
