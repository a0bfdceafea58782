//! How much of a service's traffic is under way in this process (circuit breaking).
//!
//! What is more is refused at once and says so: the destinations are not to blame, and are not asked.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use isthmus_model::traffic::Limits;
use prometheus_client::metrics::gauge::Gauge;

use crate::limits::{self as listener, Entry, Gate};
use crate::message::replay::Place;
use crate::metrics::Reason;

/// A place; given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Place for Permit {}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

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

/// What one service has under way. How much it may have is said each time, as it is by then: what was begun before counts.
#[derive(Debug)]
pub struct Permits {
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    /// Of those, the ones of clients without a sidecar.
    strangers: Gate,
    pending: Arc<AtomicUsize>,
    retries: Arc<AtomicUsize>,
}

impl Default for Permits {
    fn default() -> Self {
        let strangers = Gate::new(listener::Limits::of_service(Limits::default().connections), Gauge::default());
        let [requests, connections, pending, retries] = Default::default();
        Self { requests, connections, strangers, pending, retries }
    }
}

impl Permits {
    /// Takes a place among the TCP connections of clients without a sidecar, beside that of [`Kind::Connections`].
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn enter(&self, source: IpAddr, limits: &Limits) -> Result<Entry, Reason> {
        self.strangers.enter_within(source, &listener::Limits::of_service(limits.connections))
    }

    /// Whether anything is under way.
    #[must_use]
    pub fn are_taken(&self) -> bool {
        let counts = [&self.requests, &self.connections, &self.pending, &self.retries];
        counts.iter().any(|count| count.load(Ordering::Acquire) > 0)
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`Overflow`].
    pub fn take(&self, kind: Kind, limits: &Limits) -> Result<Permit, Overflow> {
        let (taken, most) = match kind {
            Kind::Requests => (&self.requests, limits.requests),
            Kind::Connections => (&self.connections, limits.connections),
            Kind::Pending => (&self.pending, limits.pending),
            Kind::Retries => (&self.retries, limits.retries),
        };
        let one_more = |count: usize| (count < most).then_some(count + 1);
        let free = taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        free.map(|_| Permit(taken.clone())).map_err(|_| Overflow { kind, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_and_kinds_do_not_share_them() {
        let (permits, limits) = (Permits::default(), Limits { requests: 1, connections: 1, pending: 0, retries: 1 });
        let request = permits.take(Kind::Requests, &limits).expect("free");
        let full = permits.take(Kind::Requests, &limits).expect_err("taken");
        assert_eq!(full.to_string(), "1 requests to this service are under way from here already");
        assert!(permits.take(Kind::Connections, &limits).is_ok() && permits.take(Kind::Pending, &limits).is_err());
        assert!(permits.are_taken());
        drop(request);
        assert!(permits.take(Kind::Requests, &limits).is_ok() && !permits.are_taken());
    }

    #[test]
    fn what_was_begun_before_counts_against_a_limit_that_is_new() {
        let (permits, usual) = (Permits::default(), Limits::default());
        let begun: Vec<Permit> = (0..3).filter_map(|_| permits.take(Kind::Requests, &usual).ok()).collect();
        let two = Limits { requests: 2, ..Limits::default() };
        assert!(permits.take(Kind::Requests, &two).is_err());
        drop(begun);
        let held: Vec<Permit> = (0..3).filter_map(|_| permits.take(Kind::Requests, &two).ok()).collect();
        assert_eq!(held.len(), 2);
        assert!(permits.take(Kind::Requests, &usual).is_ok(), "and so does what is wider");
    }
}
