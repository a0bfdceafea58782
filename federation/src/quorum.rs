//! When a quorum last stood behind what this replica knows.
//!
//! A leader knows from its followers' answers and tells it along with every message, as an age: a leader that
//! lost its quorum goes on sending heartbeats, and whoever hears only those has nothing fresh. Kept by the monotonic
//! clock, so that a jump of the system's clock makes nothing look fresh or stale.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The last word of a quorum. Clones share it.
#[derive(Clone, Debug)]
pub struct QuorumWord(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    /// Milliseconds after `started` of the last word; 0 before the first.
    last: AtomicU64,
}

impl Default for QuorumWord {
    fn default() -> Self {
        Self(Arc::new(Inner { started: Instant::now(), last: AtomicU64::new(0) }))
    }
}

impl QuorumWord {
    /// Notes a word that is `age` old. An older one than is known changes nothing.
    pub(crate) fn note(&self, age: Duration) {
        let at = self.0.started.elapsed().saturating_sub(age);
        self.0.last.fetch_max(u64::try_from(at.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long ago the last word was; `None` when there was none since this process started.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        match self.0.last.load(Ordering::Relaxed) {
            0 => None,
            last => Some(self.0.started.elapsed().saturating_sub(Duration::from_millis(last))),
        }
    }

    /// How long there has been no word. What is on disk at the start may be of any age: it counts from the start.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.age().unwrap_or_else(|| self.0.started.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_freshest_word_counts_and_one_from_before_the_start_is_none() {
        let word = QuorumWord::default();
        word.note(Duration::from_secs(3600));
        assert_eq!(word.age(), None);
        while word.0.started.elapsed() < Duration::from_millis(5) {
            std::thread::yield_now();
        }
        word.note(Duration::ZERO);
        word.note(Duration::from_millis(4));
        assert!(word.age().expect("a word") < word.0.started.elapsed());
        assert!(word.silence() <= word.0.started.elapsed());
    }
}
