//! How much of a service's traffic is under way in this process (circuit breaking).
//!
//! What is more is refused at once and says so: the destinations are not to blame, and are not asked.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_model::traffic::Limits;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{self as listener, Entry, Gate};
use crate::metrics::Reason;

/// A place; given back when dropped.
pub type Permit = OwnedSemaphorePermit;

/// What there is a limit of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests under way.
    Requests,
    /// TCP connections.
    Connections,
    /// Either, while it waits for a session.
    Pending,
    /// Requests that are being sent again.
    Retries,
}

/// There are too many already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{most} {kind} to this service are under way from here already")]
pub struct Overflow {
    kind: Kind,
    most: usize,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::Pending => "requests and connections that wait for a session",
            Self::Retries => "retries",
        })
    }
}

/// The places of one service.
#[derive(Debug)]
pub struct Permits {
    limits: Limits,
    requests: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    /// Of those, the ones of clients without a sidecar.
    strangers: Gate,
    pending: Arc<Semaphore>,
    retries: Arc<Semaphore>,
}

impl Permits {
    /// All of them free.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let places = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self {
            requests: places(limits.requests),
            connections: places(limits.connections),
            strangers: Gate::new(listener::Limits::of_service(limits.connections), Gauge::default()),
            pending: places(limits.pending),
            retries: places(limits.retries),
            limits: limits.clone(),
        }
    }

    /// Takes a place among the TCP connections of clients without a sidecar, beside that of [`Kind::Connections`].
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn enter(&self, source: IpAddr) -> Result<Entry, Reason> {
        self.strangers.enter(source)
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`Overflow`].
    pub fn take(&self, kind: Kind) -> Result<Permit, Overflow> {
        let (places, most) = match kind {
            Kind::Requests => (&self.requests, self.limits.requests),
            Kind::Connections => (&self.connections, self.limits.connections),
            Kind::Pending => (&self.pending, self.limits.pending),
            Kind::Retries => (&self.retries, self.limits.retries),
        };
        places.clone().try_acquire_owned().map_err(|_| Overflow { kind, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_and_kinds_do_not_share_them() {
        let permits = Permits::new(&Limits { requests: 1, connections: 1, pending: 0, retries: 1 });
        let request = permits.take(Kind::Requests).expect("free");
        let full = permits.take(Kind::Requests).expect_err("taken");
        assert_eq!(full.to_string(), "1 requests to this service are under way from here already");
        assert!(permits.take(Kind::Connections).is_ok() && permits.take(Kind::Pending).is_err());
        drop(request);
        assert!(permits.take(Kind::Requests).is_ok());
    }
}
