//! The streams that are under way on a connection of HTTP/2 which this data plane opened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

/// What one that is stuck adds to the count, beside what it is as one that is under way.
const STUCK: u64 = 1 << 32;

/// Counts them.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Those that are under way, and above them those of them that will not come to their end
    /// ([`Place::stick`](super::replay::Place::stick)): one number, so that nobody sees the one without the other.
    count: AtomicU64,
    lost: Notify,
}

/// One of them; no longer counted when dropped.
#[derive(Debug)]
pub(crate) struct Stream {
    of: Arc<Streams>,
    is_stuck: AtomicBool,
}

impl Streams {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        under_way(self.count.load(Ordering::Acquire))
    }

    /// One more.
    pub(crate) fn enter(self: &Arc<Self>) -> Stream {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.entered()
    }

    /// One more if there are fewer than `limit`.
    pub(crate) fn enter_within(self: &Arc<Self>, limit: usize) -> Option<Stream> {
        let one_more = |count: u64| (under_way(count) < limit).then_some(count + 1);
        let taken = self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        taken.is_ok().then(|| self.entered())
    }

    fn entered(self: &Arc<Self>) -> Stream {
        Stream { of: self.clone(), is_stuck: AtomicBool::new(false) }
    }

    /// Whether the connection should get no more of them.
    pub(crate) fn are_stuck(&self) -> bool {
        self.count.load(Ordering::Acquire) >= STUCK
    }

    /// Resolves when none is left but those that are stuck: the connection would live as long as they do.
    pub(crate) async fn lost(&self) {
        self.lost.notified().await;
    }

    fn tell_if_lost(&self, count: u64) {
        if count >= STUCK && count / STUCK == count % STUCK {
            self.lost.notify_one();
        }
    }
}

fn under_way(count: u64) -> usize {
    usize::try_from(count % STUCK).unwrap_or(usize::MAX)
}

impl Stream {
    /// It will not come to its end.
    pub(crate) fn stick(&self) {
        if !self.is_stuck.swap(true, Ordering::AcqRel) {
            let before = self.of.count.fetch_add(STUCK, Ordering::AcqRel);
            self.of.tell_if_lost(before + STUCK);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let counted = if *self.is_stuck.get_mut() { 1 + STUCK } else { 1 };
        let before = self.of.count.fetch_sub(counted, Ordering::AcqRel);
        self.of.tell_if_lost(before - counted);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_lost(streams: &Streams) -> bool {
        streams.lost().now_or_never().is_some()
    }

    #[test]
    fn a_connection_is_lost_when_only_stuck_ones_are_left_and_not_when_one_got_loose() {
        let streams = Arc::new(Streams::default());
        let (upload, other) = (streams.enter(), streams.enter_within(2).expect("room"));
        assert!(streams.enter_within(2).is_none());
        upload.stick();
        assert!(streams.are_stuck() && !is_lost(&streams), "the other goes on");
        drop(upload);
        assert!(!streams.are_stuck() && !is_lost(&streams), "it came to its end after all");
        let upload = streams.enter();
        upload.stick();
        upload.stick();
        drop(other);
        assert!(is_lost(&streams));
        drop(upload);
        assert!(streams.count() == 0 && !streams.are_stuck() && !is_lost(&streams));
    }
}
