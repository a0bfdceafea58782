//! Pooled sessions to other data planes: mutual TLS, HTTP/2 inside.
//!
//! Sessions are kept per destination *and* service, because the SNI that opens one names the service, and
//! whoever answers proved that it may speak for that service. A warm call adds no handshake. A peer that
//! falls silent is found out by pings within a second ([`watched`]), so that a frozen gateway counts as a
//! dead one.

mod dial;
mod session;
mod watched;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use isthmus_identity::tls::LiveIdentity;
use isthmus_model::name::ServiceName;
use isthmus_model::route::{Destination, DestinationKey};
use isthmus_model::snapshot::{Site, Snapshot};
use tokio::sync::watch;

use crate::metrics::Metrics;
use dial::Dial;
pub use dial::{CONNECT_WITHIN, DialError, HANDSHAKE_WITHIN};
use session::Session;
pub use session::{Lease, SESSION_IDLE, SendError, classify};
pub use watched::{SILENCE_TICK, SILENCE_TICKS, WRITE_STALL_TICKS};

/// Sessions to one destination for one service. Two, so that one can be busy or ending.
pub const SESSIONS_USUAL: usize = 2;
/// Streams on a session before the second one is opened.
pub const STREAMS_BUSY: usize = 64;
/// Sessions to one destination for one service when all are nearly full: long-lived TCP streams take
/// places for good.
pub const SESSIONS_MAX: usize = 32;
/// Streams on a session at which it counts as nearly full: three quarters of what a peer allows.
pub const STREAMS_FULL: usize = 192;
/// Destinations with sessions. Each session costs a socket and some 50 kB.
pub const DESTINATIONS_MAX: usize = 4_096;

type Key = (DestinationKey, ServiceName);
type Dialed = Result<Arc<Session>, DialError>;

/// The sessions of one process. Clones share them.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    view: watch::Receiver<Arc<Snapshot>>,
    identity: LiveIdentity,
    metrics: Arc<Metrics>,
    slots: Mutex<HashMap<Key, Slot>>,
}

/// The sessions to one destination for one service.
#[derive(Default)]
struct Slot {
    sessions: Vec<Arc<Session>>,
    /// The dial under way; everyone who needs the destination waits for the same one.
    dialing: Option<watch::Receiver<Option<Dialed>>>,
}

impl Pool {
    /// A pool without sessions, to what `view` knows.
    #[must_use]
    pub fn new(view: watch::Receiver<Arc<Snapshot>>, identity: LiveIdentity, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Shared { view, identity, metrics, slots: Mutex::default() }))
    }

    /// A place on a session to `destination`, which has a sidecar or is remote; dials when there is none.
    ///
    /// # Errors
    /// When there is no session and none can be opened. Nothing was sent then.
    pub async fn lease(
        &self,
        destination: &Destination,
        key: &DestinationKey,
        service: &ServiceName,
        site: &Arc<Site>,
    ) -> Result<Lease, DialError> {
        loop {
            let mut dialing = match self.pooled_or_dialing(destination, key, service, site)? {
                Pooled::Place(lease) => return Ok(lease),
                Pooled::Dialing(dialing) => dialing,
            };
            let dialed = dialing.wait_for(Option::is_some).await.map_err(|_| DialError::Abandoned)?.clone();
            // More may have waited for it than it has places.
            if let Some(lease) = Lease::within_limit(dialed.unwrap_or(Err(DialError::Abandoned))?) {
                return Ok(lease);
            }
        }
    }

    fn pooled_or_dialing(
        &self,
        destination: &Destination,
        key: &DestinationKey,
        service: &ServiceName,
        site: &Arc<Site>,
    ) -> Result<Pooled, DialError> {
        let key = (key.clone(), service.clone());
        let mut slots = self.0.slots();
        if slots.len() >= DESTINATIONS_MAX && !slots.contains_key(&key) {
            slots.retain(|_, slot| slot.is_busy());
            if slots.len() >= DESTINATIONS_MAX {
                return Err(DialError::PoolFull);
            }
        }
        let slot = slots.entry(key.clone()).or_default();
        // Whoever answered for the service when the session began may have lost that right since.
        let renewals = self.0.identity.renewals();
        slot.sessions.retain(|session| {
            session.is_open() && session.shows(renewals) && dial::may_answer(destination, site, session.peer())
        });
        let least = slot.sessions.iter().min_by_key(|session| session.streams()).cloned();
        let streams = least.as_ref().map(|session| session.streams());
        let dialing = match &slot.dialing {
            Some(dialing) => Some(dialing.clone()),
            None if wants_another(slot.sessions.len(), streams) => {
                let dial = Dial::new(destination.clone(), &key.0, service, site.clone());
                Some(slot.dialing.insert(self.start(key, dial)).clone())
            }
            None => None,
        };
        match (least, dialing) {
            // On a session that is full a request would wait for another to end, which may be never.
            (Some(session), Some(dialing)) => {
                Ok(Lease::within_limit(session).map_or(Pooled::Dialing(dialing), Pooled::Place))
            }
            (Some(session), None) => Ok(Pooled::Place(Lease::new(session))),
            (None, Some(dialing)) => Ok(Pooled::Dialing(dialing)),
            (None, None) => Err(DialError::Abandoned),
        }
    }

    /// Dials in a task of its own: a client that leaves must not end it for the others.
    fn start(&self, key: Key, dial: Dial) -> watch::Receiver<Option<Dialed>> {
        let (done, dialing) = watch::channel(None);
        let shared = self.0.clone();
        tokio::spawn(async move {
            let dialed = dial.run(&shared.identity, shared.view.clone(), &shared.metrics).await;
            let dialed = dialed.map(|opened| opened.into_session(&shared, key.clone()));
            let mut slots = shared.slots();
            if let Some(slot) = slots.get_mut(&key) {
                slot.dialing = None;
                slot.sessions.extend(dialed.iter().cloned());
                if slot.sessions.is_empty() {
                    slots.remove(&key);
                }
            }
            drop(slots);
            // Nobody waits any more: then the session simply stays in the pool.
            let _ = done.send(Some(dialed));
        });
        dialing
    }
}

/// Whether to open one more, given how many there are and the streams on the least busy one.
fn wants_another(sessions: usize, streams: Option<usize>) -> bool {
    match streams {
        None => true,
        Some(streams) if sessions < SESSIONS_USUAL => streams >= STREAMS_BUSY,
        Some(streams) => streams >= STREAMS_FULL && sessions < SESSIONS_MAX,
    }
}

enum Pooled {
    Place(Lease),
    Dialing(watch::Receiver<Option<Dialed>>),
}

impl Slot {
    fn is_busy(&self) -> bool {
        self.dialing.is_some() || self.sessions.iter().any(|session| session.is_open() && session.streams() > 0)
    }
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether requests should take another way than through the gateway that a session goes through.
    fn is_deserted(&self, destination: &DestinationKey) -> bool {
        match destination {
            DestinationKey::Remote(cluster, east_west) => self.view.borrow().is_deserted(cluster, *east_west),
            DestinationKey::Local(_) => false,
        }
    }

    /// Takes a session out, so that no new request gets on it. It ends when those that are on it have.
    fn forget(&self, key: &Key, session: &Arc<Session>) {
        let mut slots = self.slots();
        if let Some(slot) = slots.get_mut(key) {
            slot.sessions.retain(|other| !Arc::ptr_eq(other, session));
            if slot.sessions.is_empty() && slot.dialing.is_none() {
                slots.remove(key);
            }
        }
    }
}
