//! The control port's listener: TLS, then gRPC.

use std::net::SocketAddr;

use isthmus_federation::caller::PeerStream;
use isthmus_identity::ClientAuth;
use isthmus_proxy::accept::{Accepted, Accepting, BindError};
use isthmus_proxy::metrics::Direction;
use isthmus_proxy::{DataPlane, handshake};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// The ALPN protocol of gRPC.
const ALPN_H2: &[u8] = b"h2";

/// The control port, bound.
pub struct ControlListener {
    accepting: Accepting,
}

impl ControlListener {
    /// Binds the port.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        Ok(Self { accepting: Accepting::bind(address, Direction::Control)? })
    }

    /// The port's address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.accepting.local_addr()
    }

    /// Hands connections to `server` until told to stop. A sidecar at its first contact has no certificate
    /// yet, so that none is required; what the peer may do is decided by the service.
    pub async fn serve(self, plane: DataPlane, server: mpsc::Sender<PeerStream>, shutdown: CancellationToken) {
        let identity = plane.identity().clone();
        let acceptor = TlsAcceptor::from(identity.server_config(ClientAuth::Optional, &[ALPN_H2]));
        let metrics = plane.metrics().clone();
        let handle = |accepted: Accepted| {
            let (acceptor, identity) = (acceptor.clone(), identity.clone());
            let (server, metrics) = (server.clone(), metrics.clone());
            async move {
                let pending = accepted.gate.pend();
                if let Some(tls) = handshake::accept_new(&acceptor, accepted.stream, pending, &metrics).await {
                    // The server ends only when the gateway stops.
                    let _ = server.send(PeerStream::new(tls, &identity)).await;
                }
            }
        };
        self.accepting.run(&metrics, shutdown, handle).await;
    }
}
