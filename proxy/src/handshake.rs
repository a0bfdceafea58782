//! TLS handshakes of a listener, within their bounds.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::limits::Pending;
use crate::metrics::{Metrics, Reason};

/// How long a handshake may take. Two round trips of the slowest WAN, with room.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// Completes a handshake. `None`, counted by its reason, when it fails, takes longer than
/// [`HANDSHAKE_WITHIN`], or has to make room for newer connections.
pub async fn accept<S>(tls: &TlsAcceptor, stream: S, pending: Pending, metrics: &Metrics) -> Option<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = tokio::select! {
        handshake = timeout(HANDSHAKE_WITHIN, tls.accept(stream)) => handshake,
        () = pending.displaced() => {
            metrics.handshake_failed(Reason::Displaced);
            return None;
        }
    };
    match handshake {
        Ok(Ok(tls)) => Some(tls),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            metrics.handshake_failed(Reason::Tls);
            None
        }
        Err(_) => {
            metrics.handshake_failed(Reason::Timeout);
            None
        }
    }
}
