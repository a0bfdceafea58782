//! The listener that clients reach: what a connection is, and for whom.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_model::catalog::AppProtocol;
use isthmus_model::name::ServiceName;
use isthmus_model::route::Found;
use tokio_util::sync::CancellationToken;

use super::connect::{Opened, open};
use super::detected;
use super::elsewhere::Forwarded;
use super::outside::Exit;
use super::request::{Client, Scope};
use super::target::{Target, target};
use crate::accept::{Accepted, Accepting, BindError, Owner};
use crate::detect::{Heard, Hearing, Opening};
use crate::limits::{Gate, Limits};
use crate::message::server::{Answering, HEAD_WITHIN, PING_EVERY, PONG_WITHIN, serve_client};
use crate::metrics::Direction;
use crate::plane::DataPlane;
use crate::tcp::{Prefixed, Stream, give_up_unread, original};

/// A client that has not said its first word after this is not going to.
const FIRST_BYTE_WITHIN: Duration = HEAD_WITHIN;
/// How long a client may leave unread what it was sent: as long as Envoy lets a stream be idle. It may pause, but what it was
/// sent is held for it here, by the application and on the way.
const UNREAD_MAX: Duration = Duration::from_secs(300);
/// The same of a client of HTTP/2, which reads its connection whatever becomes of its streams, and has no longer to answer a ping.
const UNREAD_HTTP2_MAX: Duration = Duration::from_secs(PING_EVERY.as_secs() + PONG_WITHIN.as_secs());

/// What a listener's connections are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Any service of the federation, for the workload beside it: by original destination, or as a forward proxy.
    Proxy,
    /// Any service of the federation, and the hosts outside that may be called, as a forward proxy for clients without a
    /// sidecar.
    Egress {
        /// Whether hosts outside may be on loopback addresses: where the whole federation is on one machine.
        allow_loopback: bool,
    },
    /// One port of one service, for the same: a virtual address of a gateway.
    Service {
        /// The service.
        name: ServiceName,
        /// Its port.
        port: u16,
    },
}

/// A bound listener for clients.
pub struct OutboundListener {
    accepting: Accepting,
    plane: DataPlane,
    mode: Mode,
}

impl OutboundListener {
    /// Binds. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn bind(address: SocketAddr, plane: DataPlane, mode: Mode) -> Result<Self, BindError> {
        // A service's address is virtual: it is routed to the machine, and no interface has it.
        let owner = if matches!(mode, Mode::Service { .. }) { Owner::RoutedRange } else { Owner::Machine };
        Ok(Self { accepting: Accepting::bind_owned(address, owner, Direction::Outbound)?, plane, mode })
    }

    /// Has its connections count at `gate`, together with those of other listeners.
    #[must_use]
    pub fn sharing(self, gate: Gate) -> Self {
        Self { accepting: self.accepting.sharing(gate), ..self }
    }

    /// The bound address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.accepting.local_addr()
    }

    /// Serves until `shutdown`, then lets requests under way finish.
    pub async fn serve(self, shutdown: CancellationToken) {
        let Self { mut accepting, plane, mode } = self;
        let metrics = plane.metrics().clone();
        if matches!(mode, Mode::Egress { .. }) {
            accepting = accepting.sharing(Gate::shown(Limits::REACHED_BY_STRANGERS, Direction::Outbound, &metrics));
        }
        let forwarded = Forwarded::default();
        let exit = match mode {
            Mode::Egress { allow_loopback } => Some(Exit::new(allow_loopback)),
            Mode::Proxy | Mode::Service { .. } => None,
        };
        let handle = |accepted| {
            let (plane, mode, forwarded, exit) = (plane.clone(), mode.clone(), forwarded.clone(), exit.clone());
            connection(plane, mode, forwarded, exit, accepted)
        };
        accepting.run(&metrics, shutdown, handle).await;
    }
}

/// What is done with a connection. Each way is boxed by itself, so that a connection holds no more than its own takes: idle ones are
/// most of a data plane's memory.
fn connection(
    plane: DataPlane,
    mode: Mode,
    forwarded: Forwarded,
    exit: Option<Exit>,
    accepted: Accepted,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    match mode {
        Mode::Service { name, port } => Box::pin(service(plane, name, port, accepted)),
        Mode::Proxy => match original::destination(&accepted.stream) {
            Some(original) => Box::pin(redirected(plane, original, forwarded, accepted)),
            None => {
                let (client, stream) = client(plane, Scope::Federation, None, accepted);
                http(client, stream)
            }
        },
        Mode::Egress { .. } => {
            let (mut client, stream) = client(plane, Scope::Federation, Some(accepted.peer.ip()), accepted);
            client.exit = exit;
            http(client, stream)
        }
    }
}

/// A connection to the address that stands for a service's port.
async fn service(plane: DataPlane, name: ServiceName, port: u16, accepted: Accepted) {
    let found = plane.find_service(&name, port).await;
    match target(found, &name.host(), port) {
        Ok(target) => {
            let stranger = Some(accepted.peer.ip());
            for_target(plane, target, stranger, accepted).await;
        }
        Err(error) => tracing::debug!(%error, peer = %accepted.peer, "connection closed"),
    }
}

/// A connection that was on its way to `original`.
async fn redirected(plane: DataPlane, original: SocketAddr, forwarded: Forwarded, accepted: Accepted) {
    match plane.find_address(original).await {
        Found::Service(service, port) => for_target(plane, Target { service, port }, None, accepted).await,
        Found::NotFound | Found::NotOurs => Box::pin(forwarded.forward(original, accepted)).await,
        // A gateway that does not answer must not cut a workload off from everything else. A virtual
        // address that nobody knows leads nowhere by itself.
        Found::Unasked(_) => Box::pin(forwarded.forward(original, accepted)).await,
        Found::NoSuchPort(service) => {
            tracing::debug!(service = %service.name, port = original.port(), "no such port: connection closed");
        }
    }
}

/// A connection for one port of one service; of whom, if not of the workload beside it.
async fn for_target(plane: DataPlane, target: Target, stranger: Option<IpAddr>, accepted: Accepted) {
    let scope = || Scope::Service(target.service.name.clone(), target.port.port);
    match target.port.protocol {
        AppProtocol::Http | AppProtocol::Http2 => {
            let (client, stream) = client(plane, scope(), stranger, accepted);
            http(client, stream).await;
        }
        AppProtocol::Detect => {
            let (client, stream) = client(plane, scope(), stranger, accepted);
            detected(client, target, None, stream).await;
        }
        AppProtocol::Tcp => Box::pin(bytes(plane, target, stranger, accepted)).await,
    }
}

/// Passes a connection's bytes on to an instance, and the other way.
async fn bytes(plane: DataPlane, target: Target, stranger: Option<IpAddr>, accepted: Accepted) {
    match open(&plane, &target, stranger).await {
        Ok(opened) => {
            if let Err(error) = opened.copy(Bytes::new(), accepted.stream).await {
                tracing::debug!(%error, service = %target.service.name, "TCP connection ended");
            }
        }
        Err(error) => tracing::debug!(%error, service = %target.service.name, "TCP connection closed"),
    }
    drop(accepted.entry);
}

/// An accepted connection, as its requests see it.
fn client(plane: DataPlane, scope: Scope, stranger: Option<IpAddr>, accepted: Accepted) -> (Client, Stream) {
    let Accepted { stream, peer: _, life, entry } = accepted;
    give_up_unread(&stream, UNREAD_MAX);
    let entry = Arc::new(entry);
    (Client { plane, scope, stranger, exit: None, within_connect: false, life, entry }, Box::new(stream))
}

/// Serves HTTP. Opaque, because what comes within a client's CONNECT is a connection of its own again.
pub(super) fn http(client: Client, mut stream: Stream) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let Some((opening, read)) = opened(&client, &mut stream).await else { return };
        serve_requests(client, opening, Prefixed::new(read, stream)).await;
    })
}

/// Serves a connection to a port of which nobody knows what it speaks; `opened` is the way there, if there is one already.
pub(super) fn detected(
    client: Client,
    target: Target,
    opened: Option<Opened>,
    stream: Stream,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move { detected::serve(client, &target, opened, stream).await })
}

/// Waits for the client's first words, as long as it may take and there is room.
async fn opened(client: &Client, stream: &mut Stream) -> Option<(Opening, Bytes)> {
    let mut hearing = Hearing::new(None);
    let hears = hearing.http(stream, FIRST_BYTE_WITHIN);
    let opened = client.entry.pend().wait(hears, &client.life.drain, client.plane.metrics()).await?;
    if opened.is_err() {
        tracing::debug!("connection closed before it sent anything");
        return None;
    }
    let Heard { opening, read, .. } = hearing.heard();
    Some((opening, read))
}

/// Serves a client's requests, in the version that it opened with.
pub(super) fn serve_requests(
    client: Client,
    opening: Opening,
    stream: Prefixed<Stream>,
) -> impl Future<Output = ()> + Send {
    if opening == Opening::Http2 {
        // A client of HTTP/2 that does not read its connection is gone.
        stream.get_ref().give_up_unread(UNREAD_HTTP2_MAX);
    }
    let drain = client.life.drain.clone();
    let handle = move |request| -> Answering { Box::pin(client.clone().answer(request)) };
    async move { serve_client(stream, opening, None, &drain, Arc::new(handle)).await }
}
