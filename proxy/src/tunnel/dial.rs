//! Opens a session: TCP, mutual TLS with the service's SNI, HTTP/2.
//!
//! In TLS 1.3 a client is done before the server has judged the client's certificate. A session is given to those who
//! wait for it at that moment, a round trip before the server says its first word; what a refusal that is already on its way
//! would cost its body waits for that word, see [`Lease::send`](super::Lease::send).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use isthmus_identity::VerifyError;
use isthmus_identity::tls::LiveIdentity;
use isthmus_model::name::{ServiceName, TrustDomain};
use isthmus_model::route::{Destination, DestinationKey};
use isthmus_model::snapshot::{Site, Snapshot};
use isthmus_model::spiffe::{Principal, SpiffeId};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::session::{Connection, Opened};
use super::watched::{SILENCE_TICK, Watched};
use crate::message::server::{
    HEADER_LIST_BYTES_MAX, PONG_WITHIN, SHARED_FRAME_MAX, SHARED_RECORDS_MAX, SHARED_SEND_BUFFER, SHARED_WINDOW,
    STREAM_WINDOW,
};
use crate::message::streams::Streams;
use crate::metrics::{Metrics, Reason};
use crate::tcp::{connect, cut_when_revoked_or};

/// How long TCP may take: the slowest round trip between regions, twice.
pub const CONNECT_WITHIN: Duration = Duration::from_millis(750);
/// How long TLS may take: the slowest round trip twice, for a packet that is lost, and the gateway's own way to the
/// workload. The kernel accepts on behalf of a frozen process, so this is what finds it out.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_millis(1_500);
/// How long an instance of another cluster may answer before the word that it may is here: a write to the registry, of some
/// round trips between regions.
const NEWS_WITHIN: Duration = Duration::from_millis(500);

/// Why there is no session.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    /// TCP failed.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, Arc<io::Error>),
    /// TLS failed: no trust, no identity, the wrong one, or no HTTP/2.
    #[error("no session with {0}: {1}; check the certificates and clocks of both sides")]
    Tls(SocketAddr, Arc<io::Error>),
    /// TLS took too long.
    #[error("{0} does not answer the handshake")]
    Silent(SocketAddr),
    /// The peer is not who may answer for the service.
    #[error("{0} is not who may answer for the service")]
    Identity(SocketAddr),
    /// The pool is full of busy sessions.
    #[error("too many destinations have open sessions")]
    PoolFull,
    /// The process is ending.
    #[error("the dial was abandoned")]
    Abandoned,
}

impl DialError {
    /// Whether the destination is not to blame.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::PoolFull | Self::Abandoned)
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Connect(..) => Reason::Connect,
            Self::Tls(..) => Reason::Tls,
            Self::Silent(_) => Reason::Timeout,
            Self::Identity(_) => Reason::Identity,
            Self::PoolFull | Self::Abandoned => Reason::Total,
        }
    }
}

/// Whether the holder of `id` may answer at `destination` (secure naming).
pub(super) fn may_answer(destination: &Destination, site: &Site, id: &SpiffeId) -> bool {
    if id.trust_domain.federation != site.federation {
        return false;
    }
    match destination {
        Destination::Local(endpoint) => {
            id.trust_domain.cluster == site.cluster
                && matches!(&id.principal, Principal::Workload(workload) if *workload == endpoint.workload)
        }
        Destination::Remote { backend, .. } => backend.may_answer(id),
    }
}

/// Everything that one dial needs.
pub(super) struct Dial {
    destination: Destination,
    address: SocketAddr,
    service: ServiceName,
    sni: String,
    site: Arc<Site>,
}

impl Dial {
    pub(super) fn new(destination: Destination, key: &DestinationKey, service: &ServiceName, site: Arc<Site>) -> Self {
        let (DestinationKey::Local(address) | DestinationKey::Remote(_, address)) = key;
        let cluster = match key {
            DestinationKey::Local(_) => site.cluster.clone(),
            DestinationKey::Remote(cluster, _) => cluster.clone(),
        };
        let target = TrustDomain { cluster, federation: site.federation.clone() };
        let sni = target.service_sni(service);
        Self { destination, address: *address, service: service.clone(), sni, site }
    }

    pub(super) async fn run(
        mut self,
        identity: &LiveIdentity,
        view: watch::Receiver<Arc<Snapshot>>,
        metrics: &Metrics,
    ) -> Result<Opened, DialError> {
        let mut opened = self.open(identity).await;
        if let Err(DialError::Tls(_, error)) = &opened
            && let Some(VerifyError::Unexpected(stranger)) = VerifyError::find_in(error.as_ref())
            && self.is_introduced(stranger, view).await
        {
            opened = self.open(identity).await;
        }
        if let Err(error) = &opened {
            metrics.handshake_failed(error.reason());
            tracing::debug!(%error, sni = self.sni, "dial failed");
        }
        opened
    }

    /// Waits until the view says that `stranger` may answer here, if it comes to say so. The other cluster's gateway knows of its
    /// instances before all others do.
    async fn is_introduced(&mut self, stranger: &SpiffeId, mut view: watch::Receiver<Arc<Snapshot>>) -> bool {
        let Destination::Remote { backend, .. } = &mut self.destination else { return false };
        if stranger.trust_domain.cluster != backend.cluster.name {
            return false;
        }
        let introduced = async {
            loop {
                let known = view.borrow_and_update().services.get(&self.service).and_then(|service| {
                    let of_cluster = service.remotes.iter().find(|known| known.cluster.name == backend.cluster.name);
                    of_cluster.filter(|known| known.may_answer(stranger)).cloned()
                });
                if known.is_some() || view.changed().await.is_err() {
                    return known;
                }
            }
        };
        match timeout(NEWS_WITHIN, introduced).await {
            Ok(Some(known)) => {
                *backend = Arc::new(known);
                true
            }
            Ok(None) | Err(_) => false,
        }
    }

    async fn open(&self, identity: &LiveIdentity) -> Result<Opened, DialError> {
        let renewals = identity.renewals();
        let tcp = connect(self.address, CONNECT_WITHIN)
            .await
            .map_err(|error| DialError::Connect(self.address, Arc::new(error)))?;
        let tls = timeout(HANDSHAKE_WITHIN, self.handshake(identity, tcp));
        let tls = tls.await.map_err(|_| DialError::Silent(self.address))?;
        let tls = tls.map_err(|error| DialError::Tls(self.address, Arc::new(error)))?;
        let peer = identity.peer(tls.get_ref().1).map(Arc::new);
        let peer = peer.filter(|peer| may_answer(&self.destination, &self.site, peer.id()));
        let peer = peer.ok_or(DialError::Identity(self.address))?;
        let (stream, heard) = Watched::new(tls);
        let streams = Arc::new(Streams::default());
        let on_it = streams.clone();
        let stream = cut_when_revoked_or(stream, peer.clone(), async move { on_it.lost().await });
        let http = http2_builder().handshake(TokioIo::new(stream)).await;
        let (send, connection): (_, Connection) =
            http.map_err(|error| DialError::Tls(self.address, Arc::new(io::Error::other(error))))?;
        Ok(Opened { send, connection, peer, renewals, heard, streams })
    }

    async fn handshake(&self, identity: &LiveIdentity, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let (destination, site) = (self.destination.clone(), self.site.clone());
        let expected = Arc::new(move |id: &SpiffeId| may_answer(&destination, &site, id));
        let config = identity.client_config(expected, &[b"h2"]);
        let name = ServerName::try_from(self.sni.clone()).map_err(io::Error::other)?;
        let mut tls = TlsConnector::from(config).connect(name, tcp).await?;
        tls.get_mut().1.set_buffer_limit(Some(SHARED_RECORDS_MAX));
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other("the peer does not speak HTTP/2"));
        }
        Ok(tls)
    }
}

fn http2_builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(SHARED_WINDOW)
        .max_frame_size(SHARED_FRAME_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_send_buf_size(SHARED_SEND_BUFFER)
        // The pings give a live peer something to say; `Watched` judges the silence. Also while idle: a
        // dead session is then found before a request gets on it.
        .keep_alive_interval(SILENCE_TICK)
        .keep_alive_while_idle(true)
        .keep_alive_timeout(PONG_WITHIN);
    builder
}
