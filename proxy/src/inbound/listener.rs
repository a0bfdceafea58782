//! The listener that other data planes reach.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_identity::tls::ClientAuth;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::admission::{Inbound, Landing, Workload};
use super::clear;
use super::session::Session;
use crate::accept::{Accepted, Accepting, BindError, Lifetime, Tasks};
use crate::handshake;
use crate::limits::Entry;
use crate::metrics::Direction;
use crate::plane::DataPlane;
use crate::tcp::{give_up_unread, original};

/// How long a peer may leave unread what it was sent. It reads on behalf of many, and stalls none of them.
const UNREAD_MAX: Duration = Duration::from_secs(30);

/// How long a handshake that is under way may go on once the listener is told to stop. For the client it may be over already, with
/// requests on their way: the session then ends in order, so that it knows that none was read.
const LAST_HANDSHAKE_WITHIN: Duration = Duration::from_secs(1);

/// A bound listener for sessions from other data planes.
pub struct InboundListener {
    accepting: Accepting,
    plane: DataPlane,
    workload: Workload,
}

impl InboundListener {
    /// Binds. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn bind(address: SocketAddr, plane: DataPlane, workload: Workload) -> Result<Self, BindError> {
        Ok(Self { accepting: Accepting::bind(address, Direction::Inbound)?, plane, workload })
    }

    /// The bound address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.accepting.local_addr()
    }

    /// Serves until `shutdown`, then lets requests under way finish.
    pub async fn serve(self, shutdown: CancellationToken) {
        let Self { accepting, plane, workload } = self;
        let metrics = plane.metrics().clone();
        let tls = TlsAcceptor::from(plane.identity().server_config(ClientAuth::Required, &[b"h2"]));
        let handle = |accepted| {
            let (plane, tls) = (plane.clone(), tls.clone());
            async move { Box::pin(connection(plane, tls, workload, accepted)).await }
        };
        accepting.run(&metrics, shutdown, handle).await;
    }
}

async fn connection(plane: DataPlane, tls: TlsAcceptor, workload: Workload, accepted: Accepted) {
    // Data planes come to this very port. What was redirected was on its way to the application.
    if workload.inbound == Inbound::Permissive
        && let Some(original) = original::destination(&accepted.stream)
    {
        return Box::pin(serve_in_the_clear(plane, workload, original, accepted)).await;
    }
    give_up_unread(&accepted.stream, UNREAD_MAX);
    let Accepted { stream, peer, life, entry } = accepted;
    let late = async {
        life.drain.cancelled().await;
        tokio::time::sleep(LAST_HANDSHAKE_WITHIN).await;
    };
    let handshake = tokio::select! {
        handshake = handshake::accept_new(&tls, stream, entry.pend(), plane.metrics()) => handshake,
        () = late => return,
    };
    let Some(tls) = handshake else { return };
    let landing = Landing::Workload(workload);
    // Boxed, so that a connection that has not shown who it is costs no more than its handshake.
    Box::pin(serve_session(tls, plane, landing, life, Some(Arc::new(entry)), peer)).await;
}

/// Serves a connection that was on its way to `original`, where the application of `workload` listens: by a client of which nothing
/// is known. That the workload lets it in is decided, and it has its place.
pub async fn serve_in_the_clear(plane: DataPlane, workload: Workload, original: SocketAddr, accepted: Accepted) {
    give_up_unread(&accepted.stream, UNREAD_MAX);
    clear::serve(plane, &workload, original, accepted).await;
}

/// Serves a session that a gateway terminates, for instances without a sidecar. The handshake is done:
/// mutual TLS with ALPN `h2`, for an SNI of a service of this cluster; `peer` is who connected. Limits are the caller's.
pub async fn serve_terminated<S>(tls: TlsStream<S>, plane: DataPlane, peer: SocketAddr, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tasks = Tasks::new(shutdown);
    serve_session(tls, plane, Landing::Gateway, tasks.life().clone(), None, peer).await;
    // Tunnels outlive the session.
    tasks.finish().await;
}

async fn serve_session<S>(
    mut tls: TlsStream<S>,
    plane: DataPlane,
    landing: Landing,
    life: Lifetime,
    entry: Option<Arc<Entry>>,
    peer: SocketAddr,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match Session::authenticate(&tls, plane.clone(), landing, life, entry) {
        Ok(session) => session.serve(tls).await,
        Err(error) => {
            tracing::debug!(%error, %peer, "session refused");
            plane.metrics().handshake_failed(error.reason());
            // So that the peer knows that nothing of what it sent meanwhile was read, and may send it elsewhere.
            if let Err(error) = tls.shutdown().await {
                tracing::debug!(%error, %peer, "a refused session broke");
            }
        }
    }
}
