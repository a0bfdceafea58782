//! How many connections a listener takes, or several listeners together, from everyone and from one source, and how many of them may
//! be unproven.
//!
//! A connection is *pending* until it has shown who it is (TLS), or that it has anything to say. When there
//! are too many, those of the source that has the most of them make room, the oldest first. So ten thousand
//! silent connections displace each other, and a prompt handshake gets through between them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Direction, DirectionLabels, Metrics, Reason, ReasonLabels};

/// Bounds of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections in all. Each costs some tens of kilobytes when busy.
    pub total: usize,
    /// Connections of one source. A gateway's address stands for all of its callers, so this is
    /// not much lower than `total`; it keeps one source from taking everything.
    pub per_source: usize,
    /// Connections that are pending.
    pub pending: usize,
    /// Connections of one source that are pending. Of one that has so many, the oldest makes room.
    pub pending_per_source: usize,
}

impl Limits {
    /// Half of what may be pending is for others, whatever one source does. The other half is a whole cluster's sidecars that come back
    /// through one translated address: a handshake takes two round trips.
    pub const REACHED_BY_STRANGERS: Self =
        Self { total: 16_384, per_source: 12_288, pending: 1_024, pending_per_source: 512 };
    /// A sidecar's only source is the workload beside it.
    const REACHED_BY_CLIENTS: Self =
        Self { pending_per_source: Self::REACHED_BY_STRANGERS.pending, ..Self::REACHED_BY_STRANGERS };

    /// One of the public stands for nobody else. Sixteen of them fill it.
    const REACHED_BY_THE_PUBLIC: Self =
        Self { per_source: 1_024, pending_per_source: 128, ..Self::REACHED_BY_STRANGERS };

    /// Requests of the public that are under way: of one source as many as one of its connections may have. Whoever neither reads
    /// nor goes on sending holds no more of a service than that.
    pub const PUBLIC_REQUESTS: Self = Self { total: 16_384, per_source: 256, pending: 0, pending_per_source: 0 };

    /// TCP connections of clients without a sidecar to one service, which may have so many `connections` in all: a quarter is one
    /// source's, so that with three that hold all they can, for as long as nothing has to move, there is room for a fourth. By default
    /// that is 1,024, as at the ingress: nine for each pod of a full node of Kubernetes (110) behind one translated address.
    #[must_use]
    pub const fn of_service(connections: usize) -> Self {
        Self { total: connections, per_source: connections.div_ceil(4), pending: 0, pending_per_source: 0 }
    }

    /// For a port whose connections are all pending as long as they last: of more than `connections`, the oldest makes room for the
    /// newest. It takes a moment to go, for which [`Gate::enter_when_left`] waits.
    #[must_use]
    pub const fn by_age(connections: usize) -> Self {
        let total = 2 * connections;
        Self { total, per_source: total, pending: connections, pending_per_source: connections }
    }

    /// For a listener of the data plane.
    #[must_use]
    pub const fn of(direction: Direction) -> Self {
        match direction {
            Direction::EastWest | Direction::Control | Direction::Inbound => Self::REACHED_BY_STRANGERS,
            Direction::Ingress => Self::REACHED_BY_THE_PUBLIC,
            Direction::Outbound => Self::REACHED_BY_CLIENTS,
        }
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 network of 64 bits, which is the least that a customer is
/// given (RFC 6177), and as many addresses as its owner likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Source(IpAddr);

impl Source {
    /// `::ffff:a.b.c.d` and `a.b.c.d` are one source.
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address @ IpAddr::V4(_) => address,
        })
    }
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
    queues: Mutex<Queues>,
    next: AtomicU64,
    /// Told whenever a connection has left.
    left: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    /// No longer than `total`: sources without connections are taken out.
    by_source: HashMap<Source, usize>,
}

impl Gate {
    /// A gate that nobody has passed; `open` shows how many did and have not left.
    #[must_use]
    pub fn new(limits: Limits, open: Gauge) -> Self {
        let (counts, queues, next) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(State { limits, open, counts, queues, next, left: Notify::new() }))
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
        self.enter_within(source, &self.0.limits)
    }

    /// The same by other limits than before: whoever is there already counts.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn enter_within(&self, source: IpAddr, limits: &Limits) -> Result<Entry, Reason> {
        enter(&self.0, Source::of(source), limits)
    }

    /// As [`enter`](Self::enter), but where a limit is reached waits until a connection leaves, as those do that have to make room.
    pub async fn enter_when_left(&self, source: IpAddr) -> Entry {
        loop {
            // Before it is looked whether there is room, so that nobody leaves in between.
            let left = self.0.left.notified();
            match self.enter(source) {
                Ok(entry) => return entry,
                Err(_) => left.await,
            }
        }
    }
}

fn enter(gate: &Arc<State>, source: Source, limits: &Limits) -> Result<Entry, Reason> {
    let mut counts = gate.counts();
    if counts.total >= limits.total {
        return Err(Reason::Total);
    }
    counts.enter(source, limits.per_source)?;
    counts.total += 1;
    gate.open.inc();
    Ok(Entry { gate: gate.clone(), source })
}

impl Counts {
    fn enter(&mut self, source: Source, per_source: usize) -> Result<(), Reason> {
        let of_source = self.by_source.get(&source).copied().unwrap_or(0);
        if of_source >= per_source {
            return Err(Reason::Source);
        }
        self.by_source.insert(source, of_source + 1);
        Ok(())
    }

    fn leave(&mut self, source: Source) {
        if let Some(of_source) = self.by_source.get_mut(&source) {
            *of_source -= 1;
            if *of_source == 0 {
                self.by_source.remove(&source);
            }
        }
    }
}

impl State {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that was let in; leaves when dropped.
#[derive(Debug)]
pub struct Entry {
    gate: Arc<State>,
    source: Source,
}

impl Entry {
    /// Counts the connection for another source from now on: the one that stands behind a load balancer.
    ///
    /// # Errors
    /// The limit that the other source has reached. The connection then counts where it did.
    pub fn move_to(&mut self, source: IpAddr) -> Result<(), Reason> {
        let source = Source::of(source);
        let mut counts = self.gate.counts();
        if source != self.source {
            counts.enter(source, self.gate.limits.per_source)?;
            counts.leave(self.source);
            self.source = source;
        }
        Ok(())
    }

    /// Lets one more connection of the same source in: one that is opened within this one.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn another(&self) -> Result<Self, Reason> {
        enter(&self.gate, self.source, &self.gate.limits)
    }

    /// Counts the connection as pending. Where there are too many, one that has been for longest makes room: of the same
    /// source if that has too many, else of the source that has the most.
    #[must_use]
    pub fn pend(&self) -> Pending {
        self.pend_within(self.gate.limits.pending_per_source)
    }

    /// The same for one of a load balancer, whose clients are not known yet: it may have all places, but is the first to make room. Half of its
    /// connections at most, or nobody could come who would displace one.
    #[must_use]
    pub fn pend_for_many(&self) -> Pending {
        let limits = &self.gate.limits;
        self.pend_within(limits.pending.min(limits.per_source / 2))
    }

    fn pend_within(&self, per_source: usize) -> Pending {
        let id = self.gate.next.fetch_add(1, Ordering::Relaxed);
        let displaced = CancellationToken::new();
        let mut queues = self.gate.queues();
        if queues.of(self.source) >= per_source {
            queues.displace(self.source);
        } else if queues.total >= self.gate.limits.pending
            && let Some(fullest) = queues.fullest()
        {
            queues.displace(fullest);
        }
        queues.change(self.source, |queue| queue.push_back((id, displaced.clone())));
        Pending { gate: self.gate.clone(), source: self.source, id, displaced }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut counts = self.gate.counts();
        counts.total = counts.total.saturating_sub(1);
        self.gate.open.dec();
        counts.leave(self.source);
        drop(counts);
        self.gate.left.notify_waiters();
    }
}

/// Pending connections of one source, the oldest first, by ids that only grow.
type Queue = VecDeque<(u64, CancellationToken)>;

/// How much of a claim a source has to be the one that makes room: by how many pending connections it has, then by how old
/// the oldest is.
type Rank = (usize, Reverse<u64>);

/// The pending connections of all sources.
#[derive(Debug, Default)]
struct Queues {
    total: usize,
    /// Without empty ones, so that there are no more than `total`.
    by_source: HashMap<Source, Queue>,
    /// Each source of `by_source`; ids are nobody else's, so that no two ranks are the same.
    by_rank: BTreeMap<Rank, Source>,
}

impl Queues {
    fn of(&self, source: Source) -> usize {
        self.by_source.get(&source).map_or(0, Queue::len)
    }

    fn fullest(&self) -> Option<Source> {
        self.by_rank.last_key_value().map(|(_, source)| *source)
    }

    /// Tells the oldest connection of a source to go.
    fn displace(&mut self, source: Source) {
        self.change(source, |queue| {
            if let Some((_, oldest)) = queue.pop_front() {
                oldest.cancel();
            }
        });
    }

    fn change(&mut self, source: Source, change: impl FnOnce(&mut Queue)) {
        let rank = |queue: &Queue| queue.front().map(|(oldest, _)| (queue.len(), Reverse(*oldest)));
        let queue = self.by_source.entry(source).or_default();
        if let Some(rank) = rank(queue) {
            self.by_rank.remove(&rank);
        }
        self.total -= queue.len();
        change(queue);
        self.total += queue.len();
        match rank(queue) {
            Some(rank) => drop(self.by_rank.insert(rank, source)),
            None => drop(self.by_source.remove(&source)),
        }
    }
}

/// A pending connection; no longer pending when dropped.
#[derive(Debug)]
pub struct Pending {
    gate: Arc<State>,
    source: Source,
    id: u64,
    displaced: CancellationToken,
}

impl Pending {
    /// Resolves when the connection has to make room.
    pub async fn displaced(&self) {
        self.displaced.cancelled().await;
    }

    /// What was read, unless the connection has to make room before that, which is counted as a failed handshake, or its listener
    /// stops.
    pub async fn unless_cut<T>(
        &self,
        reading: impl Future<Output = T>,
        stop: &CancellationToken,
        metrics: &Metrics,
    ) -> Option<T> {
        self.unless(reading, stop, || metrics.handshake_failed(Reason::Displaced)).await
    }

    /// What comes of `waiting`, after which the connection is no longer pending. None when it has to make room, which is
    /// counted, or when its listener drains.
    pub(crate) async fn wait<T>(
        self,
        waiting: impl Future<Output = T>,
        drain: &CancellationToken,
        metrics: &Metrics,
    ) -> Option<T> {
        let count = || {
            metrics.refused.get_or_create(&ReasonLabels { reason: Reason::Displaced }).inc();
        };
        self.unless(waiting, drain, count).await
    }

    async fn unless<T>(
        &self,
        waiting: impl Future<Output = T>,
        stop: &CancellationToken,
        count: impl FnOnce(),
    ) -> Option<T> {
        tokio::select! {
            came = waiting => Some(came),
            () = self.displaced() => {
                count();
                None
            }
            () = stop.cancelled() => None,
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.gate.queues().change(self.source, |queue| {
            if let Ok(index) = queue.binary_search_by_key(&self.id, |(id, _)| *id) {
                queue.remove(index);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Limits = Limits { total: 5, per_source: 3, pending: 3, pending_per_source: 2 };

    fn gate() -> (Gate, Gauge) {
        let open = Gauge::default();
        (Gate::new(SMALL, open.clone()), open)
    }

    fn ip(host: u8) -> IpAddr {
        [10, 0, 0, host].into()
    }

    /// How many connections each source has.
    fn counted(gate: &Gate) -> BTreeMap<IpAddr, usize> {
        gate.0.counts().by_source.iter().map(|(source, count)| (source.0, *count)).collect()
    }

    #[test]
    fn connections_are_counted_by_source_and_in_all() {
        let (gate, open) = gate();
        let mapped = "::ffff:10.0.0.1".parse().expect("valid");
        let first = gate.enter(ip(1)).expect("room");
        let _rest = [gate.enter(mapped).expect("room"), gate.enter(ip(1)).expect("room")];
        assert_eq!(gate.enter(ip(1)).err(), Some(Reason::Source));
        let _others = [gate.enter(ip(2)).expect("room"), gate.enter(ip(3)).expect("room")];
        assert_eq!(gate.enter(ip(4)).err(), Some(Reason::Total));
        drop(first);
        assert_eq!(open.get(), 4);
        assert!(gate.enter(ip(1)).is_ok());
        assert_eq!(counted(&gate).len(), 3, "sources without connections are forgotten");
    }

    #[test]
    fn silent_connections_of_a_load_balancer_displace_each_other_and_shut_nobody_out() {
        for direction in [Direction::Ingress, Direction::EastWest] {
            let limits = Limits::of(direction);
            let gate = Gate::new(limits, Gauge::default());
            let mut held: VecDeque<(Entry, Pending)> = VecDeque::new();
            for _ in 0..2 * limits.pending {
                // Who is displaced goes.
                held.retain(|(_, pending)| !pending.displaced.is_cancelled());
                let entry = gate.enter(ip(9)).expect("room for the newest");
                let pending = entry.pend_for_many();
                held.push_back((entry, pending));
            }
            assert!(held.len() > limits.pending_per_source, "it may have more than one client");
        }
    }

    #[test]
    fn what_is_opened_within_a_connection_counts_for_the_same_source() {
        let (gate, open) = gate();
        let outer = gate.enter(ip(1)).expect("room");
        let within = [outer.another().expect("room"), outer.another().expect("room")];
        assert_eq!((outer.another().err(), open.get()), (Some(Reason::Source), 3));
        drop(outer);
        assert_eq!(counted(&gate), BTreeMap::from([(ip(1), 2)]));
        drop(within);
        assert_eq!((open.get(), counted(&gate).len()), (0, 0));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_source() {
        let (gate, _) = gate();
        let enter = |address: &str| gate.enter(address.parse().expect("valid"));
        let _held = ["2001:db8::1", "2001:db8::2", "2001:db8::ffff:1:2:3"].map(|address| enter(address).expect("room"));
        assert_eq!(enter("2001:db8::4").err(), Some(Reason::Source));
        assert!(enter("2001:db8:0:1::1").is_ok());
    }

    #[test]
    fn a_connection_counts_for_the_source_behind_a_load_balancer_once_that_is_known() {
        let (gate, open) = gate();
        let balancer = ip(9);
        let mut moved: Vec<Entry> = Vec::new();
        for _ in 0..3 {
            let mut entry = gate.enter(balancer).expect("those before are counted elsewhere");
            entry.move_to(ip(1)).expect("room");
            moved.push(entry);
        }
        assert_eq!(counted(&gate), BTreeMap::from([(ip(1), 3)]));
        let mut refused = gate.enter(balancer).expect("room");
        assert_eq!(refused.move_to(ip(1)), Err(Reason::Source), "its own limit, not the load balancer's");
        assert_eq!(counted(&gate), BTreeMap::from([(ip(1), 3), (balancer, 1)]));
        moved[0].move_to(ip(1)).expect("it is there already");
        drop((moved, refused));
        assert_eq!((open.get(), counted(&gate).len()), (0, 0));
    }

    #[test]
    fn the_oldest_pending_of_a_source_that_has_too_many_makes_room() {
        let (gate, _) = gate();
        let (one, other) = (gate.enter(ip(1)).expect("room"), gate.enter(ip(2)).expect("room"));
        let (first, second, neighbour) = (one.pend(), one.pend(), other.pend());
        let third = one.pend();
        assert!(first.displaced.is_cancelled());
        assert!(!second.displaced.is_cancelled() && !neighbour.displaced.is_cancelled());
        drop(second);
        let fourth = one.pend();
        assert!(!third.displaced.is_cancelled(), "the second had left");
        drop((first, third, fourth, neighbour));
        let queues = gate.0.queues();
        assert!(queues.total == 0 && queues.by_source.is_empty() && queues.by_rank.is_empty(), "{queues:?}");
    }

    #[tokio::test]
    async fn a_burst_waits_for_those_that_make_room_and_none_of_it_is_refused() {
        let gate = Gate::new(Limits::by_age(1), Gauge::default());
        let mut served = Vec::new();
        for _ in 0..100 {
            let entry = gate.enter_when_left(ip(1)).await;
            let pending = entry.pend();
            served.push(tokio::spawn(async move {
                pending.displaced().await;
                drop(entry);
            }));
        }
        let newest = served.pop().expect("a hundred");
        for displaced in served {
            displaced.await.expect("made room");
        }
        assert!(!newest.is_finished());
        assert_eq!(counted(&gate), BTreeMap::from([(ip(1), 1)]));
    }

    #[test]
    fn when_all_together_are_too_many_the_source_with_the_most_makes_room() {
        let (gate, _) = gate();
        let [one, other, newcomer] = [1, 2, 3].map(|host| gate.enter(ip(host)).expect("room"));
        let (single, first, second) = (other.pend(), one.pend(), one.pend());
        let third = newcomer.pend();
        assert!(first.displaced.is_cancelled(), "not the oldest of all, which is somebody else's only one");
        // Now each has one: the oldest goes.
        let fourth = newcomer.pend();
        assert!(single.displaced.is_cancelled());
        assert!(![&second, &third, &fourth].iter().any(|pending| pending.displaced.is_cancelled()));
    }

    #[test]
    fn pending_connections_that_leave_in_any_order_are_counted_right() {
        let (gate, _) = gate();
        let entries: Vec<Entry> = (1..=5).map(|host| gate.enter(ip(host % 3)).expect("room")).collect();
        let mut held: VecDeque<Pending> = VecDeque::new();
        for step in 0..1_000_usize {
            held.push_back(entries[step * 7 % 5].pend());
            if step % 3 != 0 {
                drop(held.remove(step * 5 % held.len()));
            }
            let queues = gate.0.queues();
            assert!(queues.total <= SMALL.pending);
            assert_eq!(queues.total, queues.by_source.values().map(Queue::len).sum::<usize>());
            assert_eq!(queues.by_rank.len(), queues.by_source.len());
            assert!(queues.by_source.values().all(|queue| queue.len() <= SMALL.pending_per_source));
        }
    }
}
