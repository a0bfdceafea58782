//! The listeners for clients from outside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_identity::PublicCertificates;
use isthmus_model::http_route::Scheme;
use prometheus_client::metrics::gauge::Gauge;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::request::{House, Visitor, answer};
use crate::accept::{Accepted, Accepting, BindError};
use crate::detect::{Heard, Hearing};
use crate::handshake;
use crate::limits::{Gate, Limits, Pending};
use crate::message::server::{Answering, HEAD_WITHIN, serve_client};
use crate::metrics::Direction;
use crate::opening::{LoadBalancers, Opening};
use crate::plane::DataPlane;
use crate::tcp::{Prefixed, Stream, give_up_unread};

/// How long a client may leave unread what it was sent: as long as nginx's `send_timeout`.
const UNREAD_MAX: Duration = Duration::from_secs(60);
/// How long a load balancer's header may take. It should be sent with the connection, and not with the client's first bytes.
const HEADER_WITHIN: Duration = Duration::from_secs(5);

/// How a listener speaks HTTP.
#[derive(Clone, Debug)]
pub enum Security {
    /// Over TLS, with these certificates.
    Tls(PublicCertificates),
    /// In the clear.
    None,
}

impl Security {
    fn scheme(&self) -> Scheme {
        match self {
            Self::Tls(_) => Scheme::Https,
            Self::None => Scheme::Http,
        }
    }
}

/// A bound listener for clients from outside.
pub struct IngressListener {
    accepting: Accepting,
    plane: DataPlane,
    security: Security,
    load_balancers: LoadBalancers,
    quiet: Duration,
}

impl IngressListener {
    /// Binds; `quiet` is how long nothing may move on a request and its response. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn bind(
        address: SocketAddr,
        plane: DataPlane,
        security: Security,
        load_balancers: LoadBalancers,
        quiet: Duration,
    ) -> Result<Self, BindError> {
        Ok(Self { accepting: Accepting::bind(address, Direction::Ingress)?, plane, security, load_balancers, quiet })
    }

    /// The bound address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.accepting.local_addr()
    }

    /// Serves until `shutdown`, then lets requests under way finish.
    pub async fn serve(self, shutdown: CancellationToken) {
        let Self { accepting, plane, security, load_balancers, quiet } = self;
        let metrics = plane.metrics().clone();
        let tls = match &security {
            Security::Tls(certificates) => Some(TlsAcceptor::from(certificates.server_config(&[b"h2", b"http/1.1"]))),
            Security::None => None,
        };
        let (scheme, port) = (security.scheme(), accepting.local_addr().port());
        let requests = Gate::new(Limits::PUBLIC_REQUESTS, Gauge::default());
        let house = Arc::new(House { plane, security, requests, scheme, port, quiet });
        let load_balancers = Arc::new(load_balancers);
        let handle = |accepted| {
            let (house, tls, load_balancers) = (house.clone(), tls.clone(), load_balancers.clone());
            async move { Box::pin(connection(house, tls, &load_balancers, accepted)).await }
        };
        accepting.run(&metrics, shutdown, handle).await;
    }
}

async fn connection(house: Arc<House>, tls: Option<TlsAcceptor>, load_balancers: &LoadBalancers, accepted: Accepted) {
    let Accepted { mut stream, peer, life, mut entry } = accepted;
    give_up_unread(&stream, UNREAD_MAX);
    let (drain, metrics) = (life.drain.clone(), house.plane.metrics().clone());
    let mut opening = Opening::new(&mut stream, HEADER_WITHIN);
    let Some(client) = load_balancers.client(&mut opening, peer, &mut entry, &drain, &metrics).await else { return };
    let stream = Prefixed::new(opening.rest(), stream);
    let entry = Arc::new(entry);
    let (from, waiting) = (client.ip().to_canonical(), entry.clone());
    let visitor = |name| Visitor { house, name, from, life, entry };
    let Some(tls) = tls else {
        return Box::pin(serve(visitor(None), Box::new(stream), waiting.pend(), &drain)).await;
    };
    let handshake = tokio::select! {
        handshake = handshake::accept_new(&tls, stream, waiting.pend(), &metrics) => handshake,
        () = drain.cancelled() => return,
    };
    let Some(tls) = handshake.map(Box::new) else { return };
    let name = tls.get_ref().1.server_name().map(str::to_ascii_lowercase);
    Box::pin(serve(visitor(name), tls, waiting.pend(), &drain)).await;
}

/// Serves HTTP, whichever version the client opens with. A client that was let in and says nothing is pending as a new one is.
async fn serve(visitor: Visitor, mut stream: Stream, pending: Pending, drain: &CancellationToken) {
    let mut hearing = Hearing::new(None);
    let opened = pending.wait(hearing.http(&mut stream, HEAD_WITHIN), drain, visitor.house.plane.metrics());
    if !matches!(opened.await, Some(Ok(()))) {
        return;
    }
    let Heard { opening, read, .. } = hearing.heard();
    let (quiet, visitor) = (visitor.house.quiet, Arc::new(visitor));
    let answer = move |request| -> Answering { Box::pin(answer(visitor.clone(), request)) };
    serve_client(Prefixed::new(read, stream), opening, Some(quiet), drain, Arc::new(answer)).await;
}
