//! The listener that clients reach: what a connection is, and for whom.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use isthmus_model::name::ServiceName;
use isthmus_model::route::Found;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::connect::open;
use super::elsewhere::Forwarded;
use super::original;
use super::request::{Client, Scope};
use super::target::{Target, target};
use crate::accept::{Accepted, Accepting, BindError, Owner};
use crate::limits::Gate;
use crate::message::server::{Carries, HEAD_WITHIN, PING_EVERY, PONG_WITHIN, serve_http1, serve_http2};
use crate::metrics::{Direction, Reason, ReasonLabels};
use crate::plane::DataPlane;
use crate::tcp::{Prefixed, give_up_unread};

/// The client connection preface of HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
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
    /// Any service of the federation, as a forward proxy for clients without a sidecar.
    Egress,
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
        let Self { accepting, plane, mode } = self;
        let metrics = plane.metrics().clone();
        let forwarded = Forwarded::default();
        let handle = |accepted| {
            let (plane, mode, forwarded) = (plane.clone(), mode.clone(), forwarded.clone());
            async move { Box::pin(connection(plane, mode, forwarded, accepted)).await }
        };
        accepting.run(&metrics, shutdown, handle).await;
    }
}

async fn connection(plane: DataPlane, mode: Mode, forwarded: Forwarded, accepted: Accepted) {
    match mode {
        Mode::Service { name, port } => {
            let found = plane.find_service(&name, port).await;
            match target(found, &name.host(), port) {
                Ok(target) => {
                    let stranger = Some(accepted.peer.ip());
                    for_target(plane, target, stranger, accepted).await;
                }
                Err(error) => tracing::debug!(%error, peer = %accepted.peer, "connection closed"),
            }
        }
        Mode::Proxy => match original::destination(&accepted.stream) {
            Some(original) => redirected(plane, original, forwarded, accepted).await,
            None => http(plane, Scope::Federation, None, accepted).await,
        },
        Mode::Egress => {
            let stranger = Some(accepted.peer.ip());
            http(plane, Scope::Federation, stranger, accepted).await;
        }
    }
}

/// A connection that was on its way to `original`.
async fn redirected(plane: DataPlane, original: SocketAddr, forwarded: Forwarded, accepted: Accepted) {
    match plane.find_address(original).await {
        Found::Service(service, port) => for_target(plane, Target { service, port }, None, accepted).await,
        Found::NotFound | Found::NotOurs => forwarded.forward(original, accepted).await,
        // A gateway that does not answer must not cut a workload off from everything else. A virtual
        // address that nobody knows leads nowhere by itself.
        Found::Unasked(_) => forwarded.forward(original, accepted).await,
        Found::NoSuchPort(service) => {
            tracing::debug!(service = %service.name, port = original.port(), "no such port: connection closed");
        }
    }
}

/// A connection for one port of one service; of whom, if not of the workload beside it.
async fn for_target(plane: DataPlane, target: Target, stranger: Option<IpAddr>, accepted: Accepted) {
    if target.port.protocol.is_http() {
        let scope = Scope::Service(target.service.name.clone(), target.port.port);
        return http(plane, scope, stranger, accepted).await;
    }
    match open(&plane, &target).await {
        Ok(opened) => {
            if let Err(error) = opened.copy(accepted.stream).await {
                tracing::debug!(%error, service = %target.service.name, "TCP connection ended");
            }
        }
        Err(error) => tracing::debug!(%error, service = %target.service.name, "TCP connection closed"),
    }
    drop(accepted.entry);
}

/// Serves HTTP on a connection of its own.
async fn http(plane: DataPlane, scope: Scope, stranger: Option<IpAddr>, accepted: Accepted) {
    let Accepted { mut stream, peer: _, gate, life, entry } = accepted;
    give_up_unread(&stream, UNREAD_MAX);
    let client = Client { plane, scope, stranger, within_connect: false, gate, life, entry };
    let Some(opening) = opened(&client, &mut stream).await else { return };
    if opening.is_http2 {
        give_up_unread(&stream, UNREAD_HTTP2_MAX);
    }
    http_on(client, opening, stream).await;
}

/// Serves HTTP within a client's CONNECT. Boxed and opaque, because that is a request of `http_on` again.
pub(super) fn serve<S>(client: Client, mut stream: S) -> Pin<Box<dyn Future<Output = ()> + Send>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Box::pin(async move {
        if let Some(opening) = opened(&client, &mut stream).await {
            http_on(client, opening, stream).await;
        }
    })
}

/// What a connection begins with.
struct Opening {
    is_http2: bool,
    read: Bytes,
}

/// Waits for the client's first words, as long as it may take and there is room.
async fn opened<S: AsyncRead + Unpin>(client: &Client, stream: &mut S) -> Option<Opening> {
    let pending = client.gate.pend();
    let opening = tokio::select! {
        opening = timeout(FIRST_BYTE_WITHIN, opening(stream)) => opening,
        () = pending.displaced() => {
            client.plane.metrics().refused.get_or_create(&ReasonLabels { reason: Reason::Displaced }).inc();
            return None;
        }
        () = client.life.drain.cancelled() => return None,
    };
    if !matches!(opening, Ok(Ok(_))) {
        tracing::debug!("connection closed before it sent anything");
    }
    opening.ok()?.ok()
}

/// Serves HTTP, whichever version the client opened with.
async fn http_on<S>(client: Client, opening: Opening, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Opening { is_http2, read } = opening;
    let stream = Prefixed::new(read, stream);
    let drain = client.life.drain.clone();
    if is_http2 {
        let handle = move |request| client.clone().answer(request);
        serve_http2(stream, Carries::One, async move { drain.cancelled().await }, handle).await;
    } else {
        serve_http1(stream, &drain, |request| client.clone().answer(request)).await;
    }
}

/// Reads until it is clear whether the client speaks HTTP/2.
async fn opening<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Opening> {
    let mut read = BytesMut::with_capacity(1024);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let compared = read.len().min(PREFACE.len());
        if read[..compared] != PREFACE[..compared] {
            return Ok(Opening { is_http2: false, read: read.freeze() });
        }
        if compared == PREFACE.len() {
            return Ok(Opening { is_http2: true, read: read.freeze() });
        }
    }
}
