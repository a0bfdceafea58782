//! The east-west listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_federation::caller::PeerStream;
use isthmus_federation::serve::UNREAD_MAX;
use isthmus_identity::ClientAuth;
use isthmus_model::snapshot::Service;
use isthmus_proxy::accept::{Accepted, Accepting, BindError};
use isthmus_proxy::inbound::serve_terminated;
use isthmus_proxy::limits::Pending;
use isthmus_proxy::metrics::{Direction, Reason};
use isthmus_proxy::passthrough::{ClientHello, HelloError, read_client_hello, relay};
use isthmus_proxy::tcp::{Prefixed, give_up_unread};
use isthmus_proxy::{DataPlane, Metrics, handshake};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::load::Load;
use super::sni::Meaning;

/// How long a ClientHello may take. It fits a few segments of the slowest WAN.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connecting to a sidecar of the own cluster may take, each.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Sidecars that are tried for one session.
const ATTEMPTS_MAX: usize = 3;
/// The ALPN protocol of gRPC, and of sessions between data planes.
const ALPN_H2: &[u8] = b"h2";

/// A connection that was opened for this gateway.
type Opened = PeerStream<Prefixed<TcpStream>>;

/// The east-west port, bound.
pub struct EastWestListener {
    accepting: Accepting,
}

/// What every connection needs.
struct Shared {
    plane: DataPlane,
    load: Load,
    /// TLS with a certificate required: other gateways and sessions that end here.
    known: TlsAcceptor,
    /// TLS for those who have no certificate yet.
    newcomers: TlsAcceptor,
    gateway_server: mpsc::Sender<Opened>,
    newcomer_server: mpsc::Sender<Opened>,
    shutdown: CancellationToken,
}

impl EastWestListener {
    /// Binds the port.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        Ok(Self { accepting: Accepting::bind(address, Direction::EastWest)? })
    }

    /// The port's address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.accepting.local_addr()
    }

    /// Serves until told to stop, then lets sessions finish for a while.
    pub async fn serve(
        self,
        plane: DataPlane,
        gateway_server: mpsc::Sender<PeerStream<Prefixed<TcpStream>>>,
        newcomer_server: mpsc::Sender<PeerStream<Prefixed<TcpStream>>>,
        shutdown: CancellationToken,
    ) {
        let identity = plane.identity();
        let shared = Arc::new(Shared {
            known: TlsAcceptor::from(identity.server_config(ClientAuth::Required, &[ALPN_H2])),
            newcomers: TlsAcceptor::from(identity.server_config(ClientAuth::None, &[ALPN_H2])),
            load: Load::default(),
            plane,
            gateway_server,
            newcomer_server,
            shutdown: shutdown.clone(),
        });
        let metrics = shared.plane.metrics().clone();
        let handle = |accepted: Accepted| {
            let shared = shared.clone();
            async move { shared.connection(accepted).await }
        };
        self.accepting.run(&metrics, shutdown, handle).await;
    }
}

impl Shared {
    async fn connection(&self, mut accepted: Accepted) {
        let pending = accepted.gate.pend();
        let peer = accepted.peer;
        let hello = tokio::select! {
            hello = read_client_hello(&mut accepted.stream, HELLO_TIMEOUT) => hello,
            () = pending.displaced() => return self.metrics().handshake_failed(Reason::Displaced),
            () = self.shutdown.cancelled() => return,
        };
        let ClientHello { sni, bytes } = match hello {
            Ok(hello) => hello,
            Err(HelloError::Nothing) => return,
            Err(error) => {
                let reason = if matches!(error, HelloError::Timeout) { Reason::Timeout } else { Reason::Tls };
                tracing::debug!(%peer, %error, "no usable ClientHello");
                return self.metrics().handshake_failed(reason);
            }
        };
        let view = self.plane.snapshot();
        // Boxed, so that a connection that has not said anything yet costs no more than its ClientHello's buffer.
        match Meaning::of(&sni, &view) {
            Meaning::Gateway => {
                Box::pin(self.hand_over(accepted, bytes, &self.known, &self.gateway_server, pending)).await;
            }
            Meaning::Newcomer => {
                Box::pin(self.hand_over(accepted, bytes, &self.newcomers, &self.newcomer_server, pending)).await;
            }
            Meaning::Service(service) => {
                Box::pin(self.session(&service, accepted.stream, bytes, pending)).await;
            }
            Meaning::Unknown => {
                tracing::debug!(%peer, %sni, "a name that nothing is offered under");
                self.metrics().handshake_failed(Reason::Name);
            }
        }
    }

    fn metrics(&self) -> &Metrics {
        self.plane.metrics()
    }

    async fn hand_over(
        &self,
        accepted: Accepted,
        read: Bytes,
        tls: &TlsAcceptor,
        server: &mpsc::Sender<Opened>,
        pending: Pending,
    ) {
        let Accepted { stream, entry, peer, .. } = accepted;
        give_up_unread(&stream, UNREAD_MAX);
        let stream = Prefixed::new(read, stream);
        if let Some(tls) = handshake::accept(tls, stream, pending, self.metrics()).await {
            // The server ends only when the gateway stops.
            let _ = server.send(PeerStream::new(tls, self.plane.identity(), Some(peer.ip())).holding(entry)).await;
        }
    }

    /// A session for a service: unopened to a sidecar, or opened here where no instance has one.
    async fn session(&self, service: &Service, client: TcpStream, read: Bytes, pending: Pending) {
        let sidecars = self.load.order(&service.endpoints);
        if sidecars.is_empty() {
            let stream = Prefixed::new(read, client);
            if let Some(tls) = handshake::accept(&self.known, stream, pending, self.metrics()).await {
                serve_terminated(tls, self.plane.clone(), self.shutdown.clone()).await;
            }
            return;
        }
        // From here on, the sidecar's own bounds on handshakes hold.
        drop(pending);
        for address in sidecars.into_iter().take(ATTEMPTS_MAX) {
            let counted = self.load.enter(address);
            let upstream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(upstream)) => upstream,
                Ok(Err(error)) => {
                    tracing::debug!(service = %service.name, %address, %error, "a sidecar does not answer");
                    continue;
                }
                Err(_) => continue,
            };
            if let Err(error) = upstream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            if let Err(error) = relay(client, read, upstream, self.metrics()).await {
                tracing::debug!(service = %service.name, %address, %error, "a session ended");
            }
            drop(counted);
            return;
        }
        self.metrics().handshake_failed(Reason::Connect);
    }
}
