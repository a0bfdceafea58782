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
use isthmus_proxy::limits::{Entry, Pending};
use isthmus_proxy::metrics::{Direction, Reason};
use isthmus_proxy::opening::{ClientHello, LoadBalancers, Opening, usable};
use isthmus_proxy::passthrough::relay;
use isthmus_proxy::tcp::{Prefixed, give_up_unread};
use isthmus_proxy::{DataPlane, Metrics, handshake};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::load::Load;
use super::sni::Meaning;

/// How long a ClientHello may take, with the load balancer's header before it. They fit a few segments of the slowest WAN.
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
    load_balancers: LoadBalancers,
}

/// A connection of which is known whose it is.
struct Admitted {
    stream: TcpStream,
    /// The one that a load balancer named, or who connected.
    peer: SocketAddr,
    /// It counts as that one's as long as this lives.
    entry: Entry,
}

/// What every connection needs.
struct Shared {
    plane: DataPlane,
    load_balancers: LoadBalancers,
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
    /// Binds the port. What comes from `load_balancers` has to say whose connection it is, by the PROXY protocol.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(address: SocketAddr, load_balancers: LoadBalancers) -> Result<Self, BindError> {
        Ok(Self { accepting: Accepting::bind(address, Direction::EastWest)?, load_balancers })
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
            load_balancers: self.load_balancers,
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
    async fn connection(&self, accepted: Accepted) {
        let Some((admitted, hello, pending)) = self.open(accepted).await else { return };
        let ClientHello { sni, bytes } = hello;
        let view = self.plane.snapshot();
        // Boxed, so that a connection that has not said anything yet costs no more than its ClientHello's buffer.
        match Meaning::of(&sni, &view) {
            Meaning::Gateway => {
                Box::pin(self.hand_over(admitted, bytes, &self.known, &self.gateway_server, pending)).await;
            }
            Meaning::Newcomer => {
                Box::pin(self.hand_over(admitted, bytes, &self.newcomers, &self.newcomer_server, pending)).await;
            }
            Meaning::Service(service) => {
                Box::pin(self.session(&service, admitted, bytes, pending)).await;
            }
            Meaning::Unknown => {
                tracing::debug!(peer = %admitted.peer, %sni, "a name that nothing is offered under");
                self.metrics().handshake_failed(Reason::Name);
            }
        }
    }

    /// Reads whose a connection is and what it wants, and counts it for whose it is. `None`, counted, when that comes to
    /// nothing.
    async fn open(&self, accepted: Accepted) -> Option<(Admitted, ClientHello, Pending)> {
        let Accepted { mut stream, peer, mut entry, .. } = accepted;
        let (stop, metrics) = (&self.shutdown, self.metrics());
        let mut opening = Opening::new(&mut stream, HELLO_TIMEOUT);
        let peer = self.load_balancers.client(&mut opening, peer, &mut entry, stop, metrics).await?;
        let pending = entry.pend();
        let hello = pending.unless_cut(opening.client_hello(), stop, metrics).await?;
        let hello = usable(hello, Reason::Tls, peer, metrics)?;
        Some((Admitted { stream, peer, entry }, hello, pending))
    }

    fn metrics(&self) -> &Metrics {
        self.plane.metrics()
    }

    async fn hand_over(
        &self,
        admitted: Admitted,
        read: Bytes,
        tls: &TlsAcceptor,
        server: &mpsc::Sender<Opened>,
        pending: Pending,
    ) {
        let Admitted { stream, entry, peer } = admitted;
        give_up_unread(&stream, UNREAD_MAX);
        let stream = Prefixed::new(read, stream);
        if let Some(tls) = handshake::accept(tls, stream, pending, self.metrics()).await {
            // The server ends only when the gateway stops.
            let _ = server.send(PeerStream::new(tls, self.plane.identity(), Some(peer.ip())).holding(entry)).await;
        }
    }

    /// A session for a service: unopened to a sidecar, or opened here where no instance has one.
    async fn session(&self, service: &Service, admitted: Admitted, read: Bytes, pending: Pending) {
        let Admitted { stream: client, peer, entry } = admitted;
        let sidecars = self.load.order(&service.endpoints);
        if sidecars.is_empty() {
            // Boxed, so that a session that passes unopened costs no more than its own way takes.
            return Box::pin(self.terminated(Prefixed::new(read, client), peer, pending)).await;
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
                tracing::debug!(service = %service.name, %peer, %address, %error, "a session ended");
            }
            drop((counted, entry));
            return;
        }
        self.metrics().handshake_failed(Reason::Connect);
    }

    /// A session that is opened here.
    async fn terminated(&self, stream: Prefixed<TcpStream>, peer: SocketAddr, pending: Pending) {
        if let Some(tls) = handshake::accept(&self.known, stream, pending, self.metrics()).await {
            serve_terminated(tls, self.plane.clone(), peer, self.shutdown.clone()).await;
        }
    }
}

#[cfg(test)]
mod tests;
