//! Which of a cluster's gateways writes its exports: a pure choice.
//!
//! All gateways of a cluster are given the same manifests, but not at the same moment. If each wrote what it sees, they
//! would take each other's changes back. So one speaks for the cluster: the oldest that is not known to be down, or to be
//! without a quorum: it could not write what it sees.

use crate::health::{PeerTable, Reach};
use crate::registry::Registry;
use crate::registry::node::NodeId;

/// Whether gateway `own` speaks for its cluster, as far as it knows of the others. One that has not been heard of since
/// this gateway started may be about to be: it is waited for.
#[must_use]
pub fn speaks(own: NodeId, registry: &Registry, peers: &PeerTable) -> bool {
    let Some(cluster) = registry.nodes().get(&own).map(|node| &node.cluster) else { return false };
    let mut older = registry.members().filter(|(id, node)| **id < own && node.cluster == *cluster);
    older.all(|(id, _)| peers.get(id).is_some_and(|peer| peer.reach == Reach::Down || peer.stale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Entry, Introduction};
    use crate::fixture::{self, ROOT};
    use crate::health::PeerHealth;
    use crate::registry::token::{Digest, TokenId};
    use crate::time::UnixMillis;

    /// `us-east` with gateways 1 and 3, and `us-west` with gateway 2.
    fn registry() -> Registry {
        let mut registry = Registry::default();
        let founder = fixture::introduction("us-east", "gw-1", "r1", 1);
        let mut apply = |command| {
            let entry = Entry { origin: "us-east".parse().expect("valid"), at: UnixMillis(1), command };
            registry.apply(&entry).expect("legal")
        };
        apply(fixture::found("acme.mesh".parse().expect("valid"), founder));
        for (key, cluster, name) in [(2, "us-west", "gw-1"), (3, "us-east", "gw-2")] {
            let (id, secret_hash) = (TokenId::from_random([key; 8]), Digest([7; 32]));
            let (gateway, root): (_, _) = ("gw-1".parse().expect("valid"), Digest([ROOT; 32]));
            let (grant, expires_at) = (fixture::join(cluster), UnixMillis(9));
            apply(Command::MintToken { id: id.clone(), secret_hash, grant, expires_at, gateway, root });
            let newcomer: Introduction = fixture::introduction(cluster, name, "r1", key);
            apply(Command::RedeemToken { id, secret_hash, newcomer, from: None });
            apply(fixture::issue(u64::from(key), key, ROOT));
        }
        registry
    }

    #[test]
    fn the_oldest_gateway_of_a_cluster_that_is_not_down_speaks_for_it() {
        let registry = registry();
        let seen = |reach| PeerTable::unit(1, PeerHealth { reach, ..PeerHealth::default() });
        assert!(speaks(1, &registry, &PeerTable::new()) && speaks(2, &registry, &seen(Reach::Up)));
        assert!(!speaks(3, &registry, &PeerTable::new()), "the older one was not heard of yet");
        assert!(!speaks(3, &registry, &seen(Reach::Up)));
        assert!(speaks(3, &registry, &seen(Reach::Down)));
        let stale = PeerHealth { reach: Reach::Up, stale: true, ..PeerHealth::default() };
        assert!(speaks(3, &registry, &PeerTable::unit(1, stale)), "the older one cannot write");
        assert!(!speaks(9, &registry, &PeerTable::new()), "no member");
    }
}
