//! What is under way at one destination, and the choice between two.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use isthmus_model::route::DestinationKey;

use super::ejection::Record;

/// One destination of one service, shared by all requests to it.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) key: DestinationKey,
    in_flight: AtomicU32,
    /// Whether `record` says anything; spares the lock while all is well.
    marked: AtomicBool,
    record: Mutex<Record>,
}

impl Target {
    pub(super) fn new(key: DestinationKey) -> Self {
        Self { key, in_flight: AtomicU32::new(0), marked: AtomicBool::new(false), record: Mutex::default() }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
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

/// Whether load `a` on weight `wa` is less than `b` on `wb`, counting the request to come.
pub(super) fn lighter(a: u32, wa: u32, b: u32, wb: u32) -> bool {
    let scaled = |load: u32, other: u32| (u64::from(load) + 1) * u64::from(other.max(1));
    scaled(a, wb) < scaled(b, wa)
}
