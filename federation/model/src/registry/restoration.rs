//! Starting again from a copy of the registry, on one gateway, after the replicas were lost.
//!
//! What was agreed after the copy was made is gone, and nobody knows what it was. So ids that may have been given
//! since are not given again, tokens that may have been used since admit nobody any more, and the restored registry
//! has a mark, its lineage, by which replicas of the lost one are told apart.

use std::collections::BTreeMap;

use super::audit::Event;
use super::node::{Certificates, Node, NodeId, Pending};
use super::token::Digest;
use super::trust::{Custody, Envelope, Envelopes, Root};
use super::{NODES_MAX, Registry};
use crate::command::{Introduction, Refusal};
use crate::name::{ClusterName, Label};
use crate::time::UnixMillis;

/// Random bytes that one restored registry has and no other.
pub type Lineage = Digest;

/// The gateway that a registry is restored on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Survivor {
    /// It has the keys that the copy knows, and keeps its place.
    Known(NodeId),
    /// It has new keys, for which the root signed: it is admitted in place of the gateway of its name.
    Anew {
        /// Its keys and addresses.
        introduction: Box<Introduction>,
        /// What the root signed for it.
        certificates: Certificates,
    },
}

/// How a registry is restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restoration {
    /// Its mark from now on.
    pub lineage: Lineage,
    /// On which gateway.
    pub survivor: Survivor,
    /// When the copy was made.
    pub taken_at: UnixMillis,
    /// Now.
    pub at: UnixMillis,
}

impl Registry {
    /// The mark of a restored registry; none before the founding, and in one that was never restored.
    #[must_use]
    pub fn lineage(&self) -> Option<&Lineage> {
        self.federation()?.lineage.as_ref()
    }

    /// The certified gateway of that name.
    #[must_use]
    pub fn member(&self, cluster: &ClusterName, gateway: &Label) -> Option<(NodeId, &Node)> {
        let named = |(_, node): &(&NodeId, &Node)| node.cluster == *cluster && node.gateway == *gateway;
        self.members().find(named).map(|(id, node)| (*id, node))
    }

    /// This copy as the registry that the federation goes on with, and the survivor's id in it. `seal` seals a root's
    /// key to the survivor, who is the only one that keeps it until others vote; its cluster administers the
    /// federation, since those that did may not come back.
    ///
    /// # Errors
    /// When there is no federation in the copy, the survivor is not in it, or sealing fails.
    pub fn restored<E: From<Refusal>>(
        mut self,
        restoration: &Restoration,
        seal: impl Fn(NodeId, &Root) -> Result<Envelope, E>,
    ) -> Result<(Self, NodeId), E> {
        let at = restoration.at.max(self.now);
        // As many as a federation has gateways may have come since the copy was made.
        self.next_node += NODES_MAX as NodeId;
        let id = match &restoration.survivor {
            Survivor::Known(id) => *id,
            Survivor::Anew { introduction, certificates } => {
                let id = self.admit(introduction, at);
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.pending = None;
                    let answered = Pending { requests: introduction.requests.clone(), since: at };
                    node.certify(answered, certificates.clone(), at);
                }
                id
            }
        };
        let survivor = self.nodes.get(&id).filter(|node| node.is_certified());
        let cluster = survivor.ok_or(Refusal::NodeUnknown { node: id })?.cluster.clone();
        self.revoke_joins(at, |_| true);
        let federation = self.federation_mut().ok_or(Refusal::NotFounded)?;
        federation.lineage = Some(restoration.lineage);
        federation.restored_at = Some(at);
        federation.administrators.insert(cluster.clone());
        for root in federation.trust.roots().to_vec() {
            if matches!(root.custody, Custody::Sealed { .. }) {
                let envelopes = Envelopes(BTreeMap::from([(id, seal(id, &root)?)]));
                federation.trust.reseal(&root.key, &envelopes)?;
            }
        }
        self.record(at, &cluster, Event::Restored { node: id, taken_at: restoration.taken_at });
        self.now = at;
        self.revision += 1;
        Ok((self, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Entry};
    use crate::fixture::{self, FOUNDER, ROOT};
    use crate::registry::Epoch;
    use crate::registry::token::{Grant, TokenId};

    const MINTED: UnixMillis = UnixMillis(1);
    const NOW: UnixMillis = UnixMillis(100);

    fn apply(registry: &mut Registry, command: Command) {
        let entry = Entry { origin: "us-east".parse().expect("valid"), at: MINTED, command };
        registry.apply(&entry).expect("a legal command");
    }

    fn mint(registry: &mut Registry, number: u8, grant: Grant) -> TokenId {
        let id = TokenId::from_random([number; 8]);
        let (secret_hash, gateway) = (Digest([number; 32]), "gw-1".parse().expect("valid"));
        let expires_at = UnixMillis(u64::MAX);
        apply(
            registry,
            Command::MintToken { id: id.clone(), secret_hash, grant, expires_at, gateway, root: Digest([ROOT; 32]) },
        );
        id
    }

    /// us-east founded, us-west joined as node 2.
    fn copy() -> Registry {
        let mut registry = Registry::default();
        let founder = fixture::introduction("us-east", "gw-1", "r1", 1);
        apply(&mut registry, fixture::found("acme.mesh".parse().expect("valid"), founder));
        let id = mint(&mut registry, 1, fixture::join("us-west"));
        let newcomer = fixture::introduction("us-west", "gw-1", "r2", 2);
        apply(&mut registry, Command::RedeemToken { id, secret_hash: Digest([1; 32]), newcomer, from: None });
        apply(&mut registry, fixture::issue(2, 2, ROOT));
        registry
    }

    fn restoration(survivor: Survivor) -> Restoration {
        Restoration { lineage: Digest([42; 32]), survivor, taken_at: MINTED, at: NOW }
    }

    fn envelope() -> Envelope {
        Envelope { encapsulated: vec![1].into(), ciphertext: vec![2].into() }
    }

    fn restore(copy: Registry, survivor: Survivor) -> Result<(Registry, NodeId), Refusal> {
        copy.restored(&restoration(survivor), |_, _| Ok(envelope()))
    }

    #[test]
    fn a_gateway_with_its_keys_keeps_its_place_and_alone_keeps_the_root() {
        let mut before = copy();
        let open = mint(&mut before, 2, fixture::join("eu-central"));
        let workload = "shop/reviews".parse().expect("valid");
        let sidecars = mint(&mut before, 3, Grant::Workload { cluster: "us-east".parse().expect("valid"), workload });
        let (after, id) = restore(before.clone(), Survivor::Known(2)).expect("restored");
        assert_eq!(id, 2);
        assert_eq!((after.nodes(), after.exports()), (before.nodes(), before.exports()));
        assert_eq!(after.root_certificates(), before.root_certificates());
        assert_eq!(after.lineage(), Some(&Digest([42; 32])));
        assert!(after.is_administrator(&"us-west".parse().expect("valid")));
        assert!(after.is_administrator(&"us-east".parse().expect("valid")));
        let trust = after.trust().expect("founded");
        assert!(trust.is_keeper(&Digest([ROOT; 32]), 2) && !trust.is_keeper(&Digest([ROOT; 32]), FOUNDER));
        // A token that may have been used since admits nobody; sidecars go on.
        assert_eq!(after.token(&open).expect("on record").revoked_at, Some(NOW));
        assert_eq!(after.token(&sidecars).expect("on record").revoked_at, None);
        assert_eq!(after.revision(), before.revision() + 1);
        // Also where much was agreed after the backup.
        assert!(after.epoch() > Epoch { revision: u64::MAX, ..before.epoch() });
        // Ids that may have been given since are not given again.
        let mut later = after;
        let id = mint(&mut later, 4, fixture::join("eu-central"));
        let newcomer = fixture::introduction("eu-central", "gw-1", "r3", 3);
        apply(&mut later, Command::RedeemToken { id, secret_hash: Digest([4; 32]), newcomer, from: None });
        assert_eq!(later.nodes().keys().max(), Some(&(2 + NODES_MAX as NodeId + 1)));
    }

    #[test]
    fn a_gateway_with_new_keys_replaces_the_one_of_its_name() {
        let Command::Issue { certificates, .. } = fixture::issue(2, 9, ROOT) else { unreachable!("it issues") };
        let introduction = Box::new(fixture::introduction("us-west", "gw-1", "r2", 9));
        let (after, id) = restore(copy(), Survivor::Anew { introduction, certificates }).expect("restored");
        assert!(id > NODES_MAX as NodeId && !after.nodes().contains_key(&2));
        assert!(after.member(&"us-west".parse().expect("valid"), &"gw-1".parse().expect("valid")).is_some());
        assert!(after.denied().contains_key(&fixture::requests(2).gateway_key), "the lost keys are denied");
    }

    #[test]
    fn nothing_is_restored_without_a_federation_or_on_a_stranger() {
        let refused = restore(Registry::default(), Survivor::Known(1));
        assert!(matches!(refused, Err(Refusal::NodeUnknown { .. })), "{refused:?}");
        let refused = restore(copy(), Survivor::Known(7));
        assert!(matches!(refused, Err(Refusal::NodeUnknown { node: 7 })), "{refused:?}");
    }
}
