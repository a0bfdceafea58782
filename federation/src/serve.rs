//! The gRPC server behind a gateway's TLS listeners.
//!
//! A listener decides by SNI and handshake what a connection may reach, and then hands it to the server of
//! those services. The limits against HTTP/2 floods are here, once.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::caller::PeerStream;

/// Connections that wait to be taken by the server: it takes them at once, so few ever do.
const WAITING_MAX: usize = 64;
/// Calls at once on one connection: Raft pipelines a handful, health and control hold one each.
const CALLS_PER_CONNECTION: u32 = 64;
/// Header bytes of one call, decoded.
const HEADERS_LEN_MAX: u32 = 16 << 10;
/// Streams reset by the peer that may wait to be noticed (rapid reset, CVE-2023-44487).
const RESETS_PENDING_MAX: usize = 20;
/// How often a silent peer is asked whether it lives, and how long it may take to answer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a peer may leave unread what it was sent: several times as long as it may take to answer. Whoever does not read is
/// not told either that its connection is over, and would keep its place.
pub const UNREAD_MAX: Duration = Duration::from_secs(30);

/// Serves `routes` on every connection sent to the returned channel, until told to stop; then connections get
/// a GOAWAY and their calls may finish.
pub fn start<S>(routes: Routes, tasks: &TaskTracker, shutdown: CancellationToken) -> mpsc::Sender<PeerStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (connections, incoming) = mpsc::channel(WAITING_MAX);
    let incoming = ReceiverStream::new(incoming).map(Ok::<_, io::Error>);
    let server = Server::builder()
        .max_concurrent_streams(CALLS_PER_CONNECTION)
        .http2_max_header_list_size(HEADERS_LEN_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_PENDING_MAX))
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .add_routes(routes);
    tasks.spawn(async move {
        let stopped = shutdown.cancelled_owned();
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped).await {
            tracing::error!(%error, "a gRPC server ended");
        }
    });
    connections
}
