//! One direction of a link: its shape, its fault, and the clock of its bottleneck.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// A way along a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From who dials to the target.
    Forward,
    /// From the target back.
    Backward,
}

/// How far and how wide a direction is. The default is neither: bytes pass at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// One-way delay.
    pub delay: Duration,
    /// At most this much is added to the delay, evenly distributed. The order of bytes is kept.
    pub jitter: Duration,
    /// Bytes per second, shared by all connections of the link. `None` is unlimited.
    pub bandwidth: Option<u64>,
}

/// What is wrong with a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Bytes are held back until it heals.
    Stall,
    /// Bytes are taken and thrown away.
    Blackhole,
}

/// One direction, shared by all connections of the link.
#[derive(Debug)]
pub(super) struct Lane {
    shape: Mutex<Shape>,
    fault: watch::Sender<Fault>,
    bottleneck: Mutex<Bottleneck>,
    carried: AtomicU64,
}

#[derive(Debug)]
struct Bottleneck {
    /// When the last byte that was let in will have left.
    free_at: Instant,
    /// What all jitter follows from, with the time: however bytes are cut into chunks, it is the same.
    seed: u64,
    started: Instant,
}

impl Lane {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            shape: Mutex::default(),
            fault: watch::Sender::default(),
            bottleneck: Mutex::new(Bottleneck { free_at: Instant::now(), seed, started: Instant::now() }),
            carried: AtomicU64::new(0),
        }
    }

    pub(super) fn set_shape(&self, shape: Shape) {
        *self.shape.lock().unwrap_or_else(PoisonError::into_inner) = shape;
    }

    pub(super) fn shape(&self) -> Shape {
        *self.shape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_fault(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    pub(super) fn fault(&self) -> watch::Receiver<Fault> {
        self.fault.subscribe()
    }

    /// When `len` bytes that enter now come out at the far end.
    pub(super) fn arrival(&self, len: usize) -> Instant {
        let shape = self.shape();
        let mut bottleneck = self.bottleneck.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = shape.bandwidth.map_or(Duration::ZERO, |rate| serialization_delay(len, rate));
        bottleneck.free_at = bottleneck.free_at.max(Instant::now()) + busy;
        let at = bottleneck.started.elapsed().as_millis();
        let jitter = shape.jitter.mul_f64(fraction(bottleneck.seed, at));
        bottleneck.free_at + shape.delay + jitter
    }

    pub(super) fn count(&self, len: usize) {
        self.carried.fetch_add(len as u64, Ordering::Relaxed);
    }

    pub(super) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

/// How long `len` bytes take to enter a wire of `rate` bytes per second. A rate of zero counts as one.
fn serialization_delay(len: usize, rate: u64) -> Duration {
    let nanos = len as u128 * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A number of [0, 1) for the millisecond `at` (the output function of SplitMix64).
fn fraction(seed: u64, at: u128) -> f64 {
    let at = u64::try_from(at).unwrap_or(u64::MAX);
    let mut mixed = seed ^ at.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    // The upper 53 bits fill a double's mantissa exactly.
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}
