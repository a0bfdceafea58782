//! What is under way at one destination, how it does, and the choice between two.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use isthmus_model::route::DestinationKey;
use isthmus_model::traffic::Arrival;

use super::ejection::Record;
use super::latency::Latency;

/// Latencies that differ by less than a quarter are the same: what is measured by few answers differs by chance, and a
/// choice that went by it would be one-sided.
const SAME_LATENCY: (u64, u64) = (5, 4);
/// What a newcomer gets of its share at first, in per mille.
const FIRST_SHARE: u64 = 100;

/// One destination of one service, shared by all requests to it.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) key: DestinationKey,
    in_flight: AtomicU32,
    latency: Latency,
    /// Whether `record` says anything; spares the lock while all is well.
    marked: AtomicBool,
    record: Mutex<Record>,
    /// Whether `arrived` is set and may matter yet.
    is_new: AtomicBool,
    arrived: Mutex<Option<Instant>>,
}

impl Target {
    /// One that was always there, as far as anybody knows.
    pub(super) fn new(key: DestinationKey, now: Instant) -> Self {
        Self {
            key,
            in_flight: AtomicU32::new(0),
            latency: Latency::unknown(now),
            marked: AtomicBool::new(false),
            record: Mutex::default(),
            is_new: AtomicBool::new(false),
            arrived: Mutex::default(),
        }
    }

    /// It has just joined others, or is back.
    pub(super) fn arrive(&self, now: Instant) {
        *self.arrived.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        self.is_new.store(true, Ordering::Release);
    }

    /// What it should get of its share, in per mille (slow start).
    pub(super) fn share(&self, arrival: &Arrival, now: Instant) -> u64 {
        if !self.is_new.load(Ordering::Acquire) {
            return 1_000;
        }
        let arrived = *self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let there_for = arrived.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        if there_for >= arrival.slow_start {
            self.is_new.store(false, Ordering::Release);
            return 1_000;
        }
        let grown = there_for.as_millis() * 1_000 / arrival.slow_start.as_millis().max(1);
        u64::try_from(grown).unwrap_or(1_000).max(FIRST_SHARE)
    }

    /// What choosing between destinations goes by.
    pub(super) fn cost(&self, weight: u32, now: Instant) -> Cost {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        Cost { in_flight, weight: weight.max(1), latency: self.latency.expected(now) }
    }

    /// It answered after `took`.
    pub(super) fn observe(&self, took: Duration, now: Instant) {
        self.latency.observe(took, now);
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the record, and whether it says anything.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        let mut record = self.lock();
        let result = change(&mut record);
        self.marked.store(!record.is_clean(), Ordering::Release);
        result
    }

    /// Whether failures are on record.
    pub(super) fn is_marked(&self) -> bool {
        self.marked.load(Ordering::Acquire)
    }

    pub(super) fn usable(&self, now: Instant) -> bool {
        !self.is_marked() || self.lock().usable(now)
    }

    pub(super) fn ejected_until(&self) -> Option<Instant> {
        if self.is_marked() { self.lock().ejected_until() } else { None }
    }

    pub(super) fn is_on_trial(&self) -> bool {
        self.is_marked() && self.lock().is_on_trial()
    }

    pub(super) fn admit(&self, now: Instant) -> bool {
        !self.is_marked() || self.change(|record| record.admit(now))
    }
}

/// One request under way at a destination; counts until dropped.
#[derive(Debug)]
pub struct Load(pub(super) Arc<Target>);

impl Load {
    pub(super) fn on(target: &Arc<Target>) -> Self {
        target.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(target.clone())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one destination would cost a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) in_flight: u32,
    pub(super) weight: u32,
    /// Microseconds, if known.
    pub(super) latency: Option<u64>,
}

impl Cost {
    /// Whether this one is better. Of two that differ in how long they take, the one at which the request would be
    /// through sooner; else the one with less to do for its weight.
    pub(super) fn is_below(&self, other: &Self) -> bool {
        let (more, less) = SAME_LATENCY;
        let differ = |a: u64, b: u64| a.max(b).saturating_mul(less) > a.min(b).saturating_mul(more);
        let (ours, theirs, waiting) = match (self.latency, other.latency) {
            (Some(ours), Some(theirs)) if differ(ours, theirs) => (ours, theirs, 1),
            _ => (1, 1, 0),
        };
        let scaled = |load: u32, latency: u64, weight: u32| {
            (u128::from(load) + waiting) * u128::from(latency) * u128::from(weight)
        };
        scaled(self.in_flight, ours, other.weight) < scaled(other.in_flight, theirs, self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(in_flight: u32, weight: u32, latency: Option<u64>) -> Cost {
        Cost { in_flight, weight, latency }
    }

    #[test]
    fn less_to_do_for_its_weight_is_better_unless_one_is_much_slower() {
        let below = |a: Cost, b: Cost| (a.is_below(&b), b.is_below(&a));
        assert_eq!(below(cost(1, 2, None), cost(1, 1, None)), (true, false));
        assert_eq!(below(cost(0, 2, None), cost(0, 1, None)), (false, false), "both are idle");
        assert_eq!(below(cost(0, 1, Some(100)), cost(0, 1, Some(120))), (false, false), "the same, by chance");
        assert_eq!(below(cost(0, 1, Some(100)), cost(0, 1, Some(200))), (true, false));
        assert_eq!(below(cost(3, 1, Some(100)), cost(0, 1, Some(200))), (false, true), "fast, but busy");
        assert_eq!(below(cost(0, 1, Some(1)), cost(0, 1, None)), (false, false), "one has to be seen first");
    }

    #[test]
    fn a_newcomer_gets_its_share_little_by_little() {
        let (start, arrival) = (Instant::now(), Arrival::default());
        let target = Target::new(DestinationKey::Local(([10, 0, 0, 1], 1).into()), start);
        assert_eq!(target.share(&arrival, start), 1_000);
        target.arrive(start);
        let shares = [0, 5, 10].map(|eighth| target.share(&arrival, start + arrival.slow_start * eighth / 10));
        assert_eq!(shares, [FIRST_SHARE, 500, 1_000]);
        assert_eq!(target.share(&arrival, start), 1_000, "for good");
    }
}
