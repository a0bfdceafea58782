//! Which voter should lead: the one from which most others are near, for it waits for them with every write.

use std::collections::BTreeMap;
use std::time::Duration;

use isthmus_model::registry::node::NodeId;

/// How much nearer another has to be for a leader to make way: a handover holds writes up for about a second.
const GAIN_MIN: Duration = Duration::from_millis(10);

/// The median of round trips.
pub(super) fn median(mut round_trips: Vec<Duration>) -> Option<Duration> {
    round_trips.sort_unstable();
    round_trips.get(round_trips.len().checked_sub(1)? / 2).copied()
}

/// The candidate that is nearest to all others; any, where none told.
pub(super) fn nearest(candidates: &BTreeMap<NodeId, Option<Duration>>) -> Option<NodeId> {
    let distance = |candidate: &(&NodeId, &Option<Duration>)| candidate.1.unwrap_or(Duration::MAX);
    candidates.iter().min_by_key(distance).map(|(candidate, _)| *candidate)
}

/// The candidate for which a leader at that distance makes way: one that is nearer by a third, and by [`GAIN_MIN`].
pub(super) fn better(own: Duration, candidates: &BTreeMap<NodeId, Option<Duration>>) -> Option<NodeId> {
    let candidate = nearest(candidates)?;
    let distance = (*candidates.get(&candidate)?)?;
    (distance + GAIN_MIN <= own && distance <= own * 2 / 3).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_leader_makes_way_only_for_one_that_is_much_nearer() {
        for (own, others, expected) in [
            (ms(100), vec![(2, Some(ms(40))), (3, Some(ms(30)))], Some(3)),
            (ms(100), vec![(2, Some(ms(70)))], None),
            (ms(100), vec![(2, None)], None),
            (ms(100), vec![], None),
            (ms(12), vec![(2, Some(ms(1)))], Some(2)),
            (ms(1), vec![(2, Some(ms(0)))], None),
        ] {
            assert_eq!(better(own, &others.iter().copied().collect()), expected, "{own:?} and {others:?}");
        }
        assert_eq!(nearest(&[(2, None), (3, Some(ms(9)))].into()), Some(3));
        assert_eq!(nearest(&[(2, None)].into()), Some(2));
    }

    #[test]
    fn the_median_of_an_even_number_is_the_lower_one() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![ms(3), ms(1), ms(2)]), Some(ms(2)));
        assert_eq!(median(vec![ms(4), ms(1), ms(2), ms(3)]), Some(ms(2)));
    }
}
