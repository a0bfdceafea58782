//! How many connections a listener takes, or several listeners together, from everyone and from one address, and how many of them may
//! be unproven.
//!
//! A connection is *pending* until it has shown who it is (TLS), or that it has anything to say. Pending
//! ones are kept in order; when there are too many, the oldest makes room. So ten thousand silent
//! connections displace each other, and a prompt handshake gets through between them.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Direction, DirectionLabels, Metrics, Reason};

/// Bounds of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections in all. Each costs some tens of kilobytes when busy.
    pub total: usize,
    /// Connections of one source address. A gateway's address stands for all of its callers, so this is
    /// not much lower than `total`; it keeps one address from taking everything.
    pub per_source: usize,
    /// Connections that are pending.
    pub pending: usize,
}

impl Limits {
    /// For every listener of the data plane.
    pub const LISTENER: Self = Self { total: 16_384, per_source: 12_288, pending: 1_024 };
}

/// Counts the connections of one listener, or of several that share it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<State>);

#[derive(Debug)]
struct State {
    limits: Limits,
    /// Shows how many there are.
    open: Gauge,
    counts: Mutex<Counts>,
    pending: Mutex<VecDeque<(u64, CancellationToken)>>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    /// No longer than `total`: addresses without connections are taken out.
    by_source: HashMap<IpAddr, usize>,
}

impl Gate {
    /// A gate that nobody has passed; `open` shows how many did and have not left.
    #[must_use]
    pub fn new(limits: Limits, open: Gauge) -> Self {
        let (counts, pending, next) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(State { limits, open, counts, pending, next }))
    }

    /// The same, shown as connections in that direction.
    #[must_use]
    pub fn shown(limits: Limits, direction: Direction, metrics: &Metrics) -> Self {
        Self::new(limits, metrics.connections.get_or_create_owned(&DirectionLabels { direction }))
    }

    /// Lets a connection in.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn enter(&self, source: IpAddr) -> Result<Entry, Reason> {
        // `::ffff:a.b.c.d` and `a.b.c.d` are one source.
        let source = source.to_canonical();
        let mut counts = self.0.counts();
        if counts.total >= self.0.limits.total {
            return Err(Reason::Total);
        }
        let of_source = counts.by_source.entry(source).or_default();
        if *of_source >= self.0.limits.per_source {
            return Err(Reason::Source);
        }
        *of_source += 1;
        counts.total += 1;
        self.0.open.inc();
        Ok(Entry { gate: self.0.clone(), source })
    }

    /// Counts a connection as pending, at the cost of the one that has been for longest.
    #[must_use]
    pub fn pend(&self) -> Pending {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let displaced = CancellationToken::new();
        let mut pending = self.0.pending();
        if pending.len() >= self.0.limits.pending
            && let Some((_, oldest)) = pending.pop_front()
        {
            oldest.cancel();
        }
        pending.push_back((id, displaced.clone()));
        Pending { gate: self.0.clone(), id, displaced }
    }
}

impl State {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, VecDeque<(u64, CancellationToken)>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that was let in; leaves when dropped.
#[derive(Debug)]
pub struct Entry {
    gate: Arc<State>,
    source: IpAddr,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut counts = self.gate.counts();
        counts.total = counts.total.saturating_sub(1);
        self.gate.open.dec();
        if let Some(of_source) = counts.by_source.get_mut(&self.source) {
            *of_source -= 1;
            if *of_source == 0 {
                counts.by_source.remove(&self.source);
            }
        }
    }
}

/// A pending connection; no longer pending when dropped.
#[derive(Debug)]
pub struct Pending {
    gate: Arc<State>,
    id: u64,
    displaced: CancellationToken,
}

impl Pending {
    /// Resolves when the connection has to make room.
    pub async fn displaced(&self) {
        self.displaced.cancelled().await;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut pending = self.gate.pending();
        // Ids only grow from front to back.
        if let Ok(index) = pending.binary_search_by_key(&self.id, |(id, _)| *id) {
            pending.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Limits = Limits { total: 3, per_source: 2, pending: 2 };

    #[test]
    fn connections_are_counted_by_source_and_in_all() {
        let open = Gauge::default();
        let gate = Gate::new(SMALL, open.clone());
        let one = IpAddr::from([10, 0, 0, 1]);
        let mapped = "::ffff:10.0.0.1".parse().expect("valid");
        let first = gate.enter(one).expect("room");
        let _second = gate.enter(mapped).expect("room");
        assert_eq!(gate.enter(one).err(), Some(Reason::Source));
        let _third = gate.enter([10, 0, 0, 2].into()).expect("room");
        assert_eq!(gate.enter([10, 0, 0, 3].into()).err(), Some(Reason::Total));
        drop(first);
        assert_eq!(open.get(), 2);
        assert!(gate.enter(one).is_ok());
        assert_eq!(gate.0.counts().by_source.len(), 2, "sources without connections are forgotten");
    }

    #[test]
    fn the_oldest_pending_makes_room() {
        let gate = Gate::new(SMALL, Gauge::default());
        let (first, second) = (gate.pend(), gate.pend());
        let third = gate.pend();
        assert!(first.displaced.is_cancelled());
        assert!(!second.displaced.is_cancelled());
        drop(second);
        let fourth = gate.pend();
        assert!(!third.displaced.is_cancelled(), "the second had left");
        drop((first, third, fourth));
        assert!(gate.0.pending().is_empty());
    }
}
