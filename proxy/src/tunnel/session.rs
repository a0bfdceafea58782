//! One session: who is at its other end, how busy it is, and when it ends.

use std::error::Error as _;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_identity::Peer;
use isthmus_identity::tls::Guarded;
use isthmus_model::spiffe::SpiffeId;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;

use super::watched::{Watched, Word};
use super::{Key, Shared};
use crate::message::Body;
use crate::message::replay::Place;
use crate::message::server::STREAMS_MAX;
use crate::message::streams::{Stream, Streams};
use crate::metrics::Reason;

/// A session without requests is closed after this: long enough for a service that is called every minute
/// or so to stay warm.
pub const SESSION_IDLE: Duration = Duration::from_secs(60);
/// How often a session looks whether it is needed. A gateway that stops waits that long for sessions without requests: they
/// pass through it unopened, so that it cannot tell their ends itself.
const NEED_CHECK: Duration = Duration::from_secs(1);

type Io = TokioIo<Guarded<Watched<TlsStream<TcpStream>>>>;
pub(super) type Connection = http2::Connection<Io, Body, TokioExecutor>;

/// A session that was just opened and is not driven yet.
pub(super) struct Opened {
    pub(super) send: http2::SendRequest<Body>,
    pub(super) connection: Connection,
    pub(super) peer: Arc<Peer>,
    pub(super) renewals: u64,
    /// What the peer has said.
    pub(super) heard: watch::Receiver<Word>,
    pub(super) streams: Arc<Streams>,
}

/// An open session.
pub(super) struct Session {
    send: http2::SendRequest<Body>,
    peer: Arc<Peer>,
    /// [`LiveIdentity::renewals`](isthmus_identity::LiveIdentity::renewals) when it was opened.
    renewals: u64,
    /// What the peer has said, and so whether it let us in.
    heard: watch::Receiver<Word>,
    streams: Arc<Streams>,
    /// The peer takes no more requests on it.
    over: AtomicBool,
    opened_at: Instant,
    /// Milliseconds after `opened_at` at which the last stream ended.
    idle_since: AtomicU64,
}

impl Opened {
    /// Starts driving the connection.
    pub(super) fn into_session(self, pool: &Arc<Shared>, key: Key) -> Arc<Session> {
        let session = Arc::new(Session {
            send: self.send,
            peer: self.peer,
            renewals: self.renewals,
            heard: self.heard.clone(),
            streams: self.streams,
            over: AtomicBool::new(false),
            opened_at: Instant::now(),
            idle_since: AtomicU64::new(0),
        });
        let weak = Arc::downgrade(&session);
        tokio::spawn(drive(self.connection, self.heard, weak, Arc::downgrade(pool), key));
        session
    }
}

impl Session {
    pub(super) fn is_open(&self) -> bool {
        let takes_more = !self.over.load(Ordering::Relaxed) && !self.streams.are_stuck();
        takes_more && !self.send.is_closed() && self.peer.verified().is_some()
    }

    /// Whether it was opened with the certificate that is the present one after that many renewals. On an older one
    /// nothing new is sent: its root may be about to be retired, and then the peer would turn requests away.
    pub(super) fn shows(&self, renewals: u64) -> bool {
        self.renewals == renewals
    }

    pub(super) fn peer(&self) -> &SpiffeId {
        self.peer.id()
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.count()
    }

    fn idle_for(&self) -> Duration {
        let since = Duration::from_millis(self.idle_since.load(Ordering::Relaxed));
        if self.streams() > 0 { Duration::ZERO } else { self.opened_at.elapsed().saturating_sub(since) }
    }
}

/// Drives the connection to its end; takes it out of the pool when it ended or nobody needs it.
async fn drive(
    connection: Connection,
    heard: watch::Receiver<Word>,
    session: Weak<Session>,
    pool: Weak<Shared>,
    key: Key,
) {
    let Some(metrics) = pool.upgrade().map(|pool| pool.metrics.clone()) else { return };
    metrics.tunnels.inc();
    let mut connection = pin!(connection);
    let mut check = tokio::time::interval(NEED_CHECK);
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            _ = check.tick() => {
                if let (Some(session), Some(pool)) = (session.upgrade(), pool.upgrade())
                    && (session.idle_for() >= SESSION_IDLE || pool.is_deserted(&key.0))
                {
                    pool.forget(&key, &session);
                }
            }
        }
    };
    metrics.tunnels.dec();
    if *heard.borrow() != Word::Settings {
        // The handshake is over when the peer has judged our certificate.
        metrics.handshake_failed(Reason::Tls);
    }
    if let (Some(session), Some(pool)) = (session.upgrade(), pool.upgrade()) {
        pool.forget(&key, &session);
    }
    match ended {
        Ok(()) => tracing::debug!(destination = ?key.0, service = %key.1, "session closed"),
        Err(error) => tracing::debug!(destination = ?key.0, service = %key.1, %error, "session broke"),
    }
}

/// A place on a session; given back when dropped.
pub struct Lease(Arc<Session>, Stream);

impl Lease {
    /// A place whether or not there is one: the request waits for it on the session.
    pub(super) fn new(session: Arc<Session>) -> Self {
        let stream = session.streams.enter();
        Self(session, stream)
    }

    /// A place if there is one.
    pub(super) fn within_limit(session: Arc<Session>) -> Option<Self> {
        let stream = session.streams.enter_within(STREAMS_MAX as usize)?;
        Some(Self(session, stream))
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &SpiffeId {
        self.0.peer()
    }

    /// Keeps new requests off the session: its peer said that it takes none, and will close it.
    pub fn retire(&self) {
        self.0.over.store(true, Ordering::Relaxed);
    }

    /// Waits for the peer's first word: that it has let us in, and what its settings are. That costs the first requests of a session
    /// a round trip.
    ///
    /// # Errors
    /// [`SendError::Refused`].
    pub async fn heard(&self) -> Result<(), SendError> {
        let mut heard = self.0.heard.clone();
        heard.wait_for(|heard| *heard == Word::Settings).await.map(drop).map_err(|_| SendError::Refused)
    }

    /// Sends a request, to a peer that may yet refuse the session unless it was [`heard`](Self::heard).
    ///
    /// # Errors
    /// Whether the peer may have seen it.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, SendError> {
        let sent = self.0.send.clone().try_send_request(request).await;
        sent.map_err(|mut error| {
            if *self.0.heard.borrow() == Word::Refusal {
                return SendError::Refused;
            }
            let returned = error.take_message().is_some();
            classify(error.into_error(), returned)
        })
    }
}

impl Place for Lease {
    fn stick(&self) {
        tracing::debug!(peer = %self.peer(), "the peer takes nothing more of a request that nobody waits for");
        self.1.stick();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let millis = u64::try_from(self.0.opened_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.idle_since.store(millis, Ordering::Relaxed);
    }
}

/// Why no response came.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The connection ended before the peer took the request.
    #[error("the connection closed before the request was sent: {0}")]
    NotSent(hyper::Error),
    /// The peer refused the session, or ended it while the request waited for its first word.
    #[error("the peer refused the session; check the certificates and clocks of both sides")]
    Refused,
    /// The connection or stream broke after.
    #[error("the connection broke before an answer came: {0}")]
    Broken(hyper::Error),
}

/// Tells the two apart. `returned`: hyper gave the request back unsent.
#[must_use]
pub fn classify(error: hyper::Error, returned: bool) -> SendError {
    let unprocessed = error.source().and_then(|source| source.downcast_ref::<h2::Error>()).is_some_and(|error| {
        // RFC 9113 §8.7: a refused stream, and every stream above the last one of a GOAWAY, was not
        // processed. A GOAWAY that reports an error takes processed streams down with it.
        let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
        let going = error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
        refused || going
    });
    if returned || unprocessed { SendError::NotSent(error) } else { SendError::Broken(error) }
}
