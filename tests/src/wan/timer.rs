//! Waiting for the moment when bytes come out of a link.

use std::thread;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

/// Tokio wakes at the next whole millisecond.
const TICK: Duration = Duration::from_millis(1);

/// What keeps the time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Timer {
    /// Tokio, whose clock tests can stop.
    Whole,
    /// The kernel for the last millisecond: what is measured over a real link would be rounded up twice otherwise.
    Exact,
}

impl Timer {
    pub(super) async fn until(self, at: Instant) {
        match self {
            Self::Whole => sleep_until(at).await,
            Self::Exact => {
                sleep_until(at - TICK).await;
                let left = at.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    // Fails only if the runtime is going.
                    let _ = spawn_blocking(move || thread::sleep(left)).await;
                }
            }
        }
    }
}
