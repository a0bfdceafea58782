//! The streams that are under way on a connection of HTTP/2 which this data plane opened.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts them.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    under_way: AtomicUsize,
    /// Of those, the ones that will not come to their end ([`Place::stick`](super::replay::Place::stick)).
    stuck: AtomicUsize,
    lost: Notify,
}

impl Streams {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// One more.
    pub(crate) fn enter(&self) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    /// One more if there are fewer than `limit`. Whether there were.
    pub(crate) fn enter_within(&self, limit: usize) -> bool {
        let one_more = |streams: usize| (streams < limit).then_some(streams + 1);
        self.under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// One less.
    pub(crate) fn leave(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        self.tell_if_lost();
    }

    /// One of them will not come to its end.
    pub(crate) fn stick(&self) {
        self.stuck.fetch_add(1, Ordering::Relaxed);
        self.tell_if_lost();
    }

    /// Whether the connection should get no more of them.
    pub(crate) fn are_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed) > 0
    }

    /// Resolves when the connection is of use to nobody any more: it would live as long as its streams do.
    pub(crate) async fn lost(&self) {
        self.lost.notified().await;
    }

    fn tell_if_lost(&self) {
        let stuck = self.stuck.load(Ordering::Relaxed);
        if stuck > 0 && stuck >= self.count() {
            self.lost.notify_one();
        }
    }
}
