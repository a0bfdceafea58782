//! One session: the handshake, who is at the other end, and for how long that holds.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_identity::Peer;
use isthmus_model::name::ServiceName;
use isthmus_model::spiffe::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::admission::Landing;
use super::forward;
use crate::accept::Lifetime;
use crate::limits::Entry;
use crate::message::server::{Carries, SHARED_RECORDS_MAX, serve_http2};
use crate::metrics::Reason;
use crate::plaintext::deliver::{Arrival, Caller};
use crate::plane::DataPlane;
use crate::tcp::cut_when_revoked;

/// A session whose peer's certificate is about to expire is not kept for less than this, so that a clock
/// that is a little off does not close every session at once.
const LIFETIME_MIN: Duration = Duration::from_secs(1);

/// Why a session did not come about.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoSession {
    #[error("the peer does not speak HTTP/2 inside TLS")]
    NotHttp2,
    #[error("the peer's certificate is not of this federation's current roots")]
    NoIdentity,
    #[error("the peer asks for {0:?}, which is no service of this cluster")]
    Misdirected(String),
}

impl NoSession {
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::NotHttp2 => Reason::Tls,
            Self::NoIdentity | Self::Misdirected(_) => Reason::Identity,
        }
    }
}

/// An authenticated session.
pub(super) struct Session {
    pub(super) arrival: Arrival,
    pub(super) landing: Landing,
    /// Who is at the other end.
    pub(super) peer: SpiffeId,
    /// What its SNI named: the only service that it may ask for here.
    pub(super) service: ServiceName,
    /// The peer, judged again whenever trust changes.
    trusted: Arc<Peer>,
    /// Ends the session, gracefully, when its peer is no longer trusted.
    expired: CancellationToken,
}

impl Session {
    /// Reads who and what from an accepted TLS connection.
    pub(super) fn authenticate<S>(
        tls: &TlsStream<S>,
        plane: DataPlane,
        landing: Landing,
        life: Lifetime,
        entry: Option<Arc<Entry>>,
    ) -> Result<Self, NoSession> {
        let connection = tls.get_ref().1;
        if connection.alpn_protocol() != Some(b"h2") {
            return Err(NoSession::NotHttp2);
        }
        let trusted = plane.identity().peer(connection).map(Arc::new).ok_or(NoSession::NoIdentity)?;
        let sni = connection.server_name().unwrap_or_default();
        let own = plane.snapshot().site.trust_domain();
        let service = own.service_of_sni(sni).ok_or_else(|| NoSession::Misdirected(sni.to_owned()))?;
        let peer = trusted.id().clone();
        let arrival = Arrival { plane, caller: Caller::Peer(peer.clone()), life, entry };
        Ok(Self { arrival, landing, peer, service, trusted, expired: CancellationToken::new() })
    }

    /// Whether the peer would still be let in. When not, the session is asked to end: an honest peer comes back with
    /// a newer certificate.
    pub(super) fn is_trusted(&self) -> bool {
        let trusted = self.trusted.verified().is_some();
        if !trusted {
            self.expired.cancel();
        }
        trusted
    }

    /// Serves the session's requests until the peer leaves, the listener drains, or trust ends. When the peer's key is
    /// denied, what is under way is cut off.
    pub(super) async fn serve<S>(self, mut tls: TlsStream<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let left = self.trusted.not_after().duration_since(SystemTime::now()).unwrap_or_default().max(LIFETIME_MIN);
        let (drain, expired) = (self.arrival.life.drain.clone(), self.expired.clone());
        let ending = async move {
            tokio::select! {
                () = drain.cancelled() => {}
                () = expired.cancelled() => {}
                () = tokio::time::sleep(left) => {}
            }
        };
        tls.get_mut().1.set_buffer_limit(Some(SHARED_RECORDS_MAX));
        let tls = cut_when_revoked(tls, self.trusted.clone());
        let session = Arc::new(self);
        serve_http2(tls, Carries::Many, ending, move |request| forward::answer(session.clone(), request)).await;
    }
}
