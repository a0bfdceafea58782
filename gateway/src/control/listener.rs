//! The control port's listener: TLS, then gRPC.

use std::net::SocketAddr;

use isthmus_federation::caller::PeerStream;
use isthmus_federation::serve::UNREAD_MAX;
use isthmus_identity::ClientAuth;
use isthmus_proxy::accept::{Accepted, Accepting, BindError};
use isthmus_proxy::metrics::Direction;
use isthmus_proxy::tcp::give_up_unread;
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
                let Accepted { stream, entry, peer, .. } = accepted;
                give_up_unread(&stream, UNREAD_MAX);
                if let Some(tls) = handshake::accept_new(&acceptor, stream, entry.pend(), &metrics).await {
                    // The server ends only when the gateway stops.
                    let _ = server.send(PeerStream::new(tls, &identity, Some(peer.ip())).holding(entry)).await;
                }
            }
        };
        self.accepting.run(&metrics, shutdown, handle).await;
    }
}

#[cfg(test)]
mod tests {
    use isthmus_proxy::metrics::DirectionLabels;
    use tokio::net::TcpStream;
    use tokio_rustls::rustls::pki_types::ServerName;

    use super::*;
    use crate::fixture::gateway_and_client;

    #[tokio::test]
    async fn an_attached_sidecar_is_an_open_connection() {
        let (plane, connector) = gateway_and_client();
        let metrics = plane.metrics().clone();
        let listener = ControlListener::bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let (address, shutdown) = (listener.local_addr(), CancellationToken::new());
        let (server, mut attached) = mpsc::channel(1);
        let serving = tokio::spawn(listener.serve(plane, server, shutdown.clone()));

        let name = ServerName::try_from("gateway.us-east.acme.mesh").expect("a name");
        let stream = TcpStream::connect(address).await.expect("connected");
        let _session = connector.connect(name, stream).await.expect("a handshake");
        let connection = attached.recv().await.expect("handed over");
        // The listener is done with it; the server is not.
        shutdown.cancel();
        serving.await.expect("no panic");
        let open = metrics.connections.get_or_create_owned(&DirectionLabels { direction: Direction::Control });
        assert_eq!(open.get(), 1);
        drop(connection);
        assert_eq!(open.get(), 0);
    }
}
