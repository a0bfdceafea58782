//! The member clusters and their gateways.

use std::collections::BTreeMap;

use isthmus_model::health::Reach;
use isthmus_model::locality::Proximity;
use isthmus_model::name::ClusterName;
use isthmus_model::registry::node::{Node, NodeId};
use isthmus_model::shared::OrdMap;

use super::Reading;
use crate::admin::api;

impl Reading {
    pub(in crate::admin) fn clusters(&self) -> api::Clusters {
        let mut by_cluster: BTreeMap<&ClusterName, Vec<(NodeId, &Node)>> = BTreeMap::new();
        for (id, node) in self.registry.members() {
            by_cluster.entry(&node.cluster).or_default().push((*id, node));
        }
        let clusters = by_cluster.into_iter().filter_map(|(name, nodes)| self.cluster(name, &nodes));
        api::Clusters { clusters: clusters.collect(), departed: self.departed() }
    }

    fn cluster(&self, name: &ClusterName, nodes: &[(NodeId, &Node)]) -> Option<api::Cluster> {
        let locality = nodes.first()?.1.locality.clone();
        let own = *name == self.config.cluster;
        let gateways: Vec<api::Gateway> = nodes.iter().map(|(id, node)| self.gateway(*id, node)).collect();
        Some(api::Cluster {
            name: name.clone(),
            proximity: if own { Proximity::SameCluster } else { self.config.locality.proximity(&locality) },
            locality,
            reach: reach(gateways.iter().map(|gateway| gateway.reach)),
            administrator: self.registry.is_administrator(name),
            draining_since: self.registry.draining_since(name),
            exports: self.exports_of(name),
            gateways,
        })
    }

    fn gateway(&self, id: NodeId, node: &Node) -> api::Gateway {
        let heard = self.peers.get(&id);
        let heard_at = heard.and_then(|heard| heard.heard_at);
        api::Gateway {
            node: id,
            name: node.gateway.clone(),
            east_west: node.east_west,
            reach: self.reach_of(id),
            seat: self.seat(id),
            heard_at,
            heard_ago_ms: self.ago(heard_at),
        }
    }

    /// Whether a gateway answers; the one that was asked always does.
    pub(in crate::admin) fn reach_of(&self, id: NodeId) -> Reach {
        if id == self.status.node { Reach::Up } else { self.peers.get(&id).map(|peer| peer.reach).unwrap_or_default() }
    }

    fn seat(&self, id: NodeId) -> api::Seat {
        if self.status.leader == Some(id) {
            api::Seat::Leader
        } else if self.status.voters.contains(&id) {
            api::Seat::Voter
        } else if self.status.learners.contains(&id) {
            api::Seat::Learner
        } else {
            api::Seat::Absent
        }
    }

    /// How many services a cluster exports.
    pub(super) fn exports_of(&self, cluster: &ClusterName) -> usize {
        self.registry.exports().of(cluster).map_or(0, OrdMap::len)
    }
}

/// A cluster's reach from that of its gateways: the best of them.
pub(in crate::admin) fn reach(gateways: impl Iterator<Item = Reach>) -> Reach {
    let hope = |reach: &Reach| match reach {
        Reach::Down => 0,
        Reach::Unknown => 1,
        Reach::Up => 2,
    };
    gateways.max_by_key(hope).unwrap_or_default()
}
