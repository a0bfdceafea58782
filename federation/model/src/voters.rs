//! Which gateways vote: a pure plan over the members.
//!
//! At most one voter per cluster, an odd number of them, spread over regions, then zones, the nearer ones first. Sitting
//! voters keep their seat as long as they are members and answer, so that a plan never moves without a reason; and it
//! moves one seat at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::locality::Locality;
use crate::name::{ClusterName, Label};
use crate::registry::node::{Node, NodeId};

/// Voters at most, if the operator does not say. Five survive two losses; more only make every commit wait for more of
/// the WAN.
pub const VOTERS_DEFAULT: usize = 5;
/// The most that an operator can ask for.
pub const VOTERS_MAX: usize = 7;

/// A member as the leader sees it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Where it stands.
    pub locality: Locality,
    /// Whether it votes now.
    pub sitting: bool,
    /// Whether it could: its log is near the end, and it answers. One that sits and does not is kept until there is
    /// another one for its seat.
    pub fit: bool,
    /// How far away it is, in round-trip time; the longest where that is not known.
    pub distance: Duration,
}

impl Candidate {
    /// A member that is near and follows.
    #[must_use]
    pub fn of(node: &Node, sitting: bool) -> Self {
        let (cluster, locality) = (node.cluster.clone(), node.locality.clone());
        Self { cluster, locality, sitting, fit: true, distance: Duration::ZERO }
    }
}

/// The voters that the registry should have next: a step towards the best council of `seats_max` at most.
///
/// The result is empty only when `candidates` is.
#[must_use]
pub fn plan(candidates: &BTreeMap<NodeId, Candidate>, seats_max: usize) -> BTreeSet<NodeId> {
    let wanted = council(candidates, seats_max);
    let sitting: BTreeSet<NodeId> = candidates.iter().filter(|(_, one)| one.sitting).map(|(id, _)| *id).collect();
    if wanted.len() != sitting.len() || sitting.is_empty() {
        return resized(&wanted, &sitting, candidates);
    }
    // One seat moves: from one who is not wanted, who answers no more if there is such, to the first who is.
    let mut leaving: Vec<&NodeId> = sitting.difference(&wanted).collect();
    leaving.sort_by_key(|id| candidates.get(id).is_some_and(|one| one.fit));
    let moved = |comes: &NodeId, leaves: &NodeId| {
        let next: BTreeSet<NodeId> = sitting.iter().filter(|id| *id != leaves).chain([comes]).copied().collect();
        // Two of one cluster never sit together, not even on the way.
        (clusters(&next, candidates).len() == next.len()).then_some(next)
    };
    let coming = wanted.difference(&sitting);
    let next = coming.flat_map(|comes| leaving.iter().map(move |leaves| (comes, *leaves)));
    next.into_iter().find_map(|(comes, leaves)| moved(comes, leaves)).unwrap_or(sitting)
}

/// A council of the wanted size that keeps of the sitting one as much as it can: its seats move afterwards.
fn resized(
    wanted: &BTreeSet<NodeId>,
    sitting: &BTreeSet<NodeId>,
    candidates: &BTreeMap<NodeId, Candidate>,
) -> BTreeSet<NodeId> {
    if wanted.len() > sitting.len() && !sitting.is_empty() {
        let mut next = sitting.clone();
        for id in wanted.difference(sitting) {
            let taken = clusters(&next, candidates);
            if next.len() < wanted.len() && candidates.get(id).is_some_and(|one| !taken.contains(&one.cluster)) {
                next.insert(*id);
            }
        }
        if next.len() == wanted.len() {
            return next;
        }
    }
    wanted.clone()
}

fn clusters<'a>(ids: &BTreeSet<NodeId>, candidates: &'a BTreeMap<NodeId, Candidate>) -> BTreeSet<&'a ClusterName> {
    ids.iter().filter_map(|id| candidates.get(id)).map(|one| &one.cluster).collect()
}

/// The best council.
fn council(candidates: &BTreeMap<NodeId, Candidate>, seats_max: usize) -> BTreeSet<NodeId> {
    // Who neither votes nor could is none; who votes and does not answer holds its seat for want of another.
    let mut waiting: Vec<(&NodeId, &Candidate)> = candidates.iter().filter(|(_, one)| one.fit || one.sitting).collect();
    let clusters: BTreeSet<&ClusterName> = waiting.iter().map(|(_, one)| &one.cluster).collect();
    let seats = largest_odd(clusters.len().min(seats_max));
    let mut council = Council::default();
    while council.members.len() < seats {
        // Sitting voters that answer first; then the region, and the zone in it, with the fewest voters; then the
        // nearest, and the oldest member. Who does not answer comes last.
        let best =
            waiting.iter().enumerate().filter(|(_, (_, one))| !council.clusters.contains(&one.cluster)).min_by_key(
                |(_, (id, one))| {
                    let spread = (council.in_region(&one.locality), council.in_zone(&one.locality));
                    (!one.fit, !one.sitting, spread, one.distance, **id)
                },
            );
        let Some((index, _)) = best else { break };
        let (id, one) = waiting.swap_remove(index);
        council.seat(*id, one);
    }
    council.members
}

fn largest_odd(count: usize) -> usize {
    if count == 0 { 0 } else { count - (count + 1) % 2 }
}

#[derive(Default)]
struct Council<'a> {
    members: BTreeSet<NodeId>,
    clusters: BTreeSet<&'a ClusterName>,
    regions: BTreeMap<&'a Label, usize>,
    zones: BTreeMap<&'a Locality, usize>,
}

impl<'a> Council<'a> {
    fn in_region(&self, locality: &Locality) -> usize {
        self.regions.get(&locality.region).copied().unwrap_or(0)
    }

    fn in_zone(&self, locality: &Locality) -> usize {
        self.zones.get(locality).copied().unwrap_or(0)
    }

    fn seat(&mut self, id: NodeId, one: &'a Candidate) {
        self.members.insert(id);
        self.clusters.insert(&one.cluster);
        *self.regions.entry(&one.locality.region).or_default() += 1;
        *self.zones.entry(&one.locality).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(cluster: u8, locality: &str, sitting: bool, fit: bool) -> Candidate {
        Candidate {
            cluster: format!("c{cluster}").parse().expect("a cluster name"),
            locality: locality.parse().expect("a locality"),
            sitting,
            fit,
            distance: Duration::ZERO,
        }
    }

    fn plan_of(candidates: &[(NodeId, Candidate)]) -> Vec<NodeId> {
        plan(&candidates.iter().cloned().collect(), VOTERS_DEFAULT).into_iter().collect()
    }

    #[test]
    fn two_clusters_have_one_voter_and_three_have_three() {
        let mut candidates = vec![(1, candidate(1, "r1", true, true)), (2, candidate(2, "r2", false, true))];
        assert_eq!(plan_of(&candidates), [1]);
        candidates.push((3, candidate(3, "r3", false, true)));
        assert_eq!(plan_of(&candidates), [1, 2, 3]);
    }

    #[test]
    fn a_new_seat_goes_to_the_region_and_then_the_zone_without_a_voter_and_then_to_the_nearest() {
        let sits = (1, candidate(1, "r1/a", true, true));
        let same = |id: NodeId, cluster| (id, candidate(cluster, "r1/a", false, true));
        let zone = (3, candidate(3, "r1/b", false, true));
        let region = (4, candidate(4, "r2/a", false, true));
        assert_eq!(plan_of(&[sits.clone(), same(2, 2), zone.clone(), region]), [1, 3, 4]);
        assert_eq!(plan_of(&[sits.clone(), same(2, 2), same(5, 5), zone.clone()]), [1, 2, 3]);
        let (mut far, near) = (same(2, 2), same(5, 5));
        far.1.distance = Duration::from_millis(90);
        assert_eq!(plan_of(&[sits, far, near, zone]), [1, 3, 5]);
    }

    #[test]
    fn a_voter_that_does_not_answer_is_replaced_if_there_is_another() {
        let voters = |fit| {
            vec![
                (1, candidate(1, "r1", true, true)),
                (2, candidate(2, "r2", true, fit)),
                (3, candidate(3, "r3", true, true)),
            ]
        };
        assert_eq!(plan_of(&voters(false)), [1, 2, 3], "nobody else is there");
        let with = |fit, other: Candidate| [voters(fit), vec![(4, other)]].concat();
        assert_eq!(plan_of(&with(true, candidate(4, "r4", false, true))), [1, 2, 3]);
        assert_eq!(plan_of(&with(false, candidate(4, "r4", false, true))), [1, 3, 4]);
        assert_eq!(plan_of(&with(false, candidate(4, "r4", false, false))), [1, 2, 3], "that one is not in step");
        assert_eq!(plan_of(&with(false, candidate(2, "r2", false, true))), [1, 3, 4], "its cluster's other gateway");
        assert_eq!(plan_of(&with(false, candidate(1, "r1", false, true))), [1, 2, 3], "one of a cluster");
    }

    #[test]
    fn the_operator_says_how_many_there_are_at_most() {
        let candidates: BTreeMap<NodeId, Candidate> =
            (1..9_u8).map(|id| (u64::from(id), candidate(id, "r1", id == 1, true))).collect();
        for (seats, voters) in [(1, 1), (2, 1), (3, 3), (5, 5), (7, 7), (8, 7)] {
            assert_eq!(plan(&candidates, seats).len(), voters, "{seats}");
        }
    }

    fn any_candidates() -> impl Strategy<Value = BTreeMap<NodeId, Candidate>> {
        let one = (0..12_u8, 0..4_u8, 0..3_u8, prop::bool::weighted(0.2), prop::bool::weighted(0.8), 0..4_u64);
        prop::collection::btree_map(1..40_u64, one, 1..30).prop_map(|members| {
            let mut taken = BTreeSet::new();
            let candidate = |(id, (cluster, region, zone, sitting, fit, far)): (NodeId, _)| {
                let one = candidate(cluster, &format!("r{region}/z{zone}"), sitting && taken.insert(cluster), fit);
                (id, Candidate { distance: Duration::from_millis(far), ..one })
            };
            members.into_iter().map(candidate).collect()
        })
    }

    fn sitting(candidates: &BTreeMap<NodeId, Candidate>) -> BTreeSet<NodeId> {
        candidates.iter().filter(|(_, one)| one.sitting).map(|(id, _)| *id).collect()
    }

    fn seated(candidates: &BTreeMap<NodeId, Candidate>, voters: &BTreeSet<NodeId>) -> BTreeMap<NodeId, Candidate> {
        let seat = |(id, one): (&NodeId, &Candidate)| (*id, Candidate { sitting: voters.contains(id), ..one.clone() });
        candidates.iter().map(seat).collect()
    }

    proptest! {
        #[test]
        fn every_step_is_an_odd_council_of_distinct_clusters(candidates in any_candidates(), seats in 1..9_usize) {
            let eligible = candidates.values().any(|one| one.fit || one.sitting);
            let voters = plan(&candidates, seats);
            prop_assert_eq!(voters.is_empty(), !eligible);
            prop_assert!(voters.is_empty() || voters.len() % 2 == 1);
            prop_assert!(voters.len() <= seats);
            prop_assert_eq!(clusters(&voters, &candidates).len(), voters.len());
            for id in voters.difference(&sitting(&candidates)) {
                prop_assert!(candidates[id].fit, "who comes in follows and answers");
            }
        }

        #[test]
        fn steps_move_one_seat_at_a_time_and_come_to_an_end(candidates in any_candidates(), seats in 1..8_usize) {
            let mut current = candidates;
            let mut steps = 0;
            loop {
                let before = sitting(&current);
                let after = plan(&current, seats);
                if after == before || after.is_empty() {
                    break;
                }
                if after.len() == before.len() {
                    prop_assert_eq!(after.difference(&before).count(), 1);
                }
                current = seated(&current, &after);
                steps += 1;
                prop_assert!(steps <= 16, "it does not come to rest");
            }
            // At rest, nobody who does not answer sits where another could.
            let voters = sitting(&current);
            let clusters = clusters(&voters, &current);
            let spare = current.values().any(|one| one.fit && !one.sitting && !clusters.contains(&one.cluster));
            let silent = voters.iter().any(|id| !current[id].fit);
            prop_assert!(!(spare && silent));
        }
    }
}
