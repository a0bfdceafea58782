//! Which gateways vote: a pure plan over the members.
//!
//! At most one voter per cluster, an odd number of them, five at most, spread over regions. Sitting voters
//! keep their seat as long as they are members, so that a plan never moves without a reason.

use std::collections::{BTreeMap, BTreeSet};

use crate::name::{ClusterName, Label};
use crate::registry::node::{Node, NodeId};

/// Voters at most. Five survive two losses; more only make every commit wait for more of the WAN.
pub const VOTERS_MAX: usize = 5;

/// The voters that the registry should have, given its members and who votes now.
///
/// The result is empty only when `nodes` is.
#[must_use]
pub fn plan(nodes: &BTreeMap<NodeId, Node>, sitting: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let clusters: BTreeSet<&ClusterName> = nodes.values().map(|node| &node.cluster).collect();
    let seats = largest_odd(clusters.len().min(VOTERS_MAX));
    let mut council = Council::default();
    let mut waiting: Vec<(&NodeId, &Node)> = nodes.iter().collect();
    while council.members.len() < seats {
        // Sitting voters first, then the region with the fewest voters, then the oldest member.
        let best = waiting
            .iter()
            .enumerate()
            .filter(|(_, (_, node))| !council.clusters.contains(&node.cluster))
            .min_by_key(|(_, (id, node))| (!sitting.contains(id), council.in_region(&node.locality.region), **id));
        let Some((index, _)) = best else { break };
        let (id, node) = waiting.swap_remove(index);
        council.seat(*id, node);
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
}

impl<'a> Council<'a> {
    fn in_region(&self, region: &Label) -> usize {
        self.regions.get(region).copied().unwrap_or(0)
    }

    fn seat(&mut self, id: NodeId, node: &'a Node) {
        self.members.insert(id);
        self.clusters.insert(&node.cluster);
        *self.regions.entry(&node.locality.region).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixture::member;

    fn node(cluster: u8, region: u8) -> Node {
        member(&format!("c{cluster}"), &format!("r{region}"), cluster)
    }

    #[test]
    fn two_clusters_have_one_voter_and_three_have_three() {
        let mut nodes = BTreeMap::from([(1, node(1, 1)), (2, node(2, 2))]);
        assert_eq!(plan(&nodes, &BTreeSet::from([1])), BTreeSet::from([1]));
        nodes.insert(3, node(3, 3));
        assert_eq!(plan(&nodes, &BTreeSet::from([1])), BTreeSet::from([1, 2, 3]));
    }

    #[test]
    fn a_new_seat_goes_to_the_region_without_a_voter() {
        let nodes = BTreeMap::from([(1, node(1, 1)), (2, node(2, 1)), (3, node(3, 1)), (4, node(4, 2))]);
        let voters = plan(&nodes, &BTreeSet::from([1]));
        assert!(voters.contains(&4), "{voters:?}");
    }

    proptest! {
        #[test]
        fn plans_are_odd_spread_and_sticky(
            members in prop::collection::btree_map(1..40_u64, (0..12_u8, 0..4_u8), 1..30),
            sitting in prop::collection::btree_set(1..40_u64, 0..6),
        ) {
            let nodes: BTreeMap<NodeId, Node> = members.iter().map(|(id, (c, r))| (*id, node(*c, *r))).collect();
            let voters = plan(&nodes, &sitting);
            prop_assert_eq!(voters.len() % 2, 1);
            prop_assert!(voters.len() <= VOTERS_MAX);
            let clusters: BTreeSet<_> = voters.iter().map(|id| &nodes[id].cluster).collect();
            prop_assert_eq!(clusters.len(), voters.len());
            prop_assert_eq!(plan(&nodes, &voters), voters);
        }
    }
}
