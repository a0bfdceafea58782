//! How fast snapshots go out. A gateway's transfers share one pace, because they share its link.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Bytes a second: two thirds of a link of 100 Mbit/s. A registry of 50,000 exports is through in some seconds.
pub const RATE_DEFAULT: NonZeroU64 = NonZeroU64::new(8 << 20).expect("not zero");
/// Transfers at once. More would only make each slower; who waits gets heartbeats and entries meanwhile.
const TRANSFERS_MAX: usize = 4;

/// When the next piece may go: a token bucket that is as deep as the last piece was long.
#[derive(Debug)]
struct Pace {
    rate: NonZeroU64,
    /// When the last piece has gone, at this rate.
    free_at: Option<Instant>,
}

impl Pace {
    /// When so many bytes may go. They count as sent from then on.
    fn reserve(&mut self, bytes: usize, now: Instant) -> Instant {
        let start = self.free_at.map_or(now, |free| free.max(now));
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.rate.get());
        self.free_at = Some(start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        start
    }
}

/// What the transfers of one gateway share. Clones share it too.
#[derive(Clone)]
pub(crate) struct Sending {
    pace: Arc<Mutex<Pace>>,
    places: Arc<Semaphore>,
}

impl Sending {
    pub(crate) fn new(rate: NonZeroU64) -> Self {
        let pace = Pace { rate, free_at: None };
        Self { pace: Arc::new(Mutex::new(pace)), places: Arc::new(Semaphore::new(TRANSFERS_MAX)) }
    }

    /// Waits for its turn.
    pub(crate) async fn place(&self) -> SemaphorePermit<'_> {
        self.places.acquire().await.expect("it is never closed")
    }

    /// Waits until so many bytes may go.
    pub(crate) async fn pass(&self, bytes: usize) {
        let at = self.pace.lock().unwrap_or_else(PoisonError::into_inner).reserve(bytes, Instant::now());
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(rate: u64) -> NonZeroU64 {
        NonZeroU64::new(rate).expect("not zero")
    }

    #[test]
    fn pieces_follow_each_other_at_the_rate_and_a_pause_saves_nothing_up() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace { rate: rate(1_000), free_at: None };
        assert_eq!(pace.reserve(500, start), start, "the first at once");
        assert_eq!(pace.reserve(500, start), after(500));
        assert_eq!(pace.reserve(0, after(100)), after(1_000), "a question waits its turn too");
        assert_eq!(pace.reserve(250, after(600)), after(1_000));
        assert_eq!(pace.reserve(1_000, after(9_000)), after(9_000), "after a pause at once");
        assert_eq!(pace.reserve(1, after(9_000)), after(10_000), "and one after the other");
    }

    #[test]
    fn the_smallest_rate_and_the_longest_piece_do_not_overflow() {
        let now = Instant::now();
        let mut pace = Pace { rate: rate(1), free_at: None };
        pace.reserve(1 << 30, now);
        assert_eq!(pace.reserve(1, now), now + Duration::from_secs(1 << 30));
        let mut pace = Pace { rate: NonZeroU64::MAX, free_at: None };
        pace.reserve(1 << 30, now);
        assert_eq!(pace.reserve(1, now), now);
    }

    #[tokio::test(start_paused = true)]
    async fn all_transfers_together_keep_to_the_rate() {
        let sending = Sending::new(rate(1_000));
        let started = Instant::now();
        let transfers = (0..3).map(|_| {
            let sending = sending.clone();
            tokio::spawn(async move {
                let _place = sending.place().await;
                for _ in 0..10 {
                    sending.pass(100).await;
                }
            })
        });
        for transfer in transfers.collect::<Vec<_>>() {
            transfer.await.expect("no panic");
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(2_900) && took < Duration::from_secs(3), "{took:?}");
    }
}
