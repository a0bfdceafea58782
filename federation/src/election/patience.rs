//! When a voter that hears no leader stands for election.

use std::time::Duration;

use openraft::AsyncRuntime;
use rand::Rng;
use tokio::time::Instant;

use crate::node::Timing;
use crate::raft_types::Runtime;

/// One voter's patience. Drawn anew after each try, so that voters which once collided do not again.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    timing: Timing,
    /// How much silence it bears.
    silence: Duration,
    /// Not before, after a try.
    not_before: Option<Instant>,
}

fn draw(from: Duration, to: Duration) -> Duration {
    from + to.saturating_sub(from).mul_f64(<Runtime as AsyncRuntime>::thread_rng().r#gen())
}

impl Patience {
    pub(super) fn new(timing: Timing) -> Self {
        Self { timing, silence: draw(timing.election_min, timing.election_max), not_before: None }
    }

    /// Whether it is over at `now`, where a leader was last heard at `heard`, or this voter last stood or voted. It is
    /// shortest for the `foremost`: the voter whose candidacy came to nothing, but beats all others that it knows of. Those
    /// whom it beats have learnt so, and wait longer.
    pub(super) fn is_over(&self, heard: Instant, foremost: bool, now: Instant) -> bool {
        let silence = if foremost { self.timing.election_min } else { self.silence };
        now >= heard + silence && self.has_rested(now)
    }

    /// Whether it may try again at `now`.
    pub(super) fn has_rested(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| now >= at)
    }

    /// Too few would have voted for it. To have asked cost nothing, so it asks again soon.
    pub(super) fn turned_down(&mut self, now: Instant) {
        self.not_before = Some(now + draw(self.timing.election_min / 8, self.timing.election_min / 4));
    }

    /// It stood. If that came to nothing, another had some of the votes: they should not meet again.
    pub(super) fn stood(&mut self, now: Instant) {
        *self = Self::new(self.timing);
        self.not_before = Some(now + draw(self.timing.election_min / 2, self.timing.election_min));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_lasts_from_the_shortest_to_the_longest_silence_and_ends_later_after_a_try() {
        let timing = Timing::default();
        let heard = Instant::now();
        for _ in 0..100 {
            let mut patience = Patience::new(timing);
            for foremost in [false, true] {
                assert!(!patience.is_over(heard, foremost, heard + timing.election_min - Duration::from_millis(1)));
            }
            assert!(patience.is_over(heard, false, heard + timing.election_max));
            let now = heard + timing.election_max;
            patience.turned_down(now);
            assert!(!patience.is_over(heard, false, now));
            assert!(patience.is_over(heard, false, now + timing.election_min / 4));
            patience.stood(now);
            assert!(!patience.is_over(heard, true, now + timing.election_min / 2 - Duration::from_millis(1)));
            assert!(patience.is_over(now, true, now + timing.election_min), "who is foremost is so at once");
            assert!(patience.is_over(now, false, now + timing.election_max));
        }
    }
}
