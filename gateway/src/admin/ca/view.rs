//! The roots and the rotation as one reading has them.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_identity::certificate_summary;
use isthmus_model::name::ClusterName;
use isthmus_model::registry::node::{Node, NodeId};
use isthmus_model::registry::token::{Digest, Token};
use isthmus_model::registry::trust::{Custody, Phase, Root};

use crate::admin::api::{Member, TokenState};
use crate::admin::tokens::token_state;
use crate::admin::view::{Reading, reach};

use super::api;

impl Reading {
    pub(in crate::admin) fn ca(&self) -> api::Ca {
        let trust = self.registry.trust();
        let signs = trust.map(|trust| trust.issuer().key);
        let roots = trust.map(|trust| trust.roots()).unwrap_or_default();
        api::Ca {
            roots: roots.iter().map(|root| self.root(root, signs)).collect(),
            rotation: self.rotation(),
            outdated_tokens: self.outdated_tokens(),
        }
    }

    fn root(&self, root: &Root, signs: Option<Digest>) -> api::Root {
        let (custody, keepers) = match &root.custody {
            Custody::Offline => (api::Custody::Offline, Vec::new()),
            Custody::Sealed { envelopes } => {
                let keepers: Vec<Member> = envelopes.0.keys().map(|id| self.member(*id)).collect();
                (api::Custody::Sealed, keepers)
            }
        };
        let (subject, not_after) = certificate_summary(&root.certificate.0)
            .map_or_else(|error| (error.to_string(), None), |(subject, not_after)| (subject, Some(not_after.into())));
        api::Root { key: root.key, subject, not_after, signs: signs == Some(root.key), custody, keepers }
    }

    fn rotation(&self) -> Option<api::Rotation> {
        let trust = self.registry.trust()?;
        let (rotation, root) = (trust.rotation()?, trust.roots().last()?);
        let waits_for: BTreeSet<NodeId> = self.registry.rotation_waits_for().into_iter().collect();
        let mut by_cluster: BTreeMap<&ClusterName, Vec<(NodeId, &Node)>> = BTreeMap::new();
        for (id, node) in self.registry.members() {
            by_cluster.entry(&node.cluster).or_default().push((*id, node));
        }
        let offline = rotation.phase == Phase::Reissue && root.custody == Custody::Offline;
        let clusters = by_cluster.into_iter().map(|(name, nodes)| api::ClusterProgress {
            name: name.clone(),
            reach: reach(nodes.iter().map(|(id, _)| self.reach_of(*id))),
            done: nodes.iter().all(|(id, _)| !waits_for.contains(id)),
            unsigned: offline && nodes.iter().all(|(id, node)| !waits_for.contains(id) || node.pending.is_some()),
            gateways: nodes.iter().map(|(id, node)| progress(*id, node, &waits_for)).collect(),
        });
        let (phase, started_at) = (rotation.phase, rotation.started_at);
        Some(api::Rotation { root: root.key, phase, started_at, clusters: clusters.collect() })
    }

    /// The clusters that `phase` of the change to `root` waits for, first those that only wait for the root itself; none
    /// when another phase is the present one.
    pub(super) fn waited_for(&self, root: &Digest, phase: Phase) -> (Vec<ClusterName>, Vec<ClusterName>) {
        let rotation = self.rotation().filter(|rotation| (rotation.root, rotation.phase) == (*root, phase));
        let missing = rotation.iter().flat_map(api::Rotation::waits_for);
        let (unsigned, missing): (Vec<_>, Vec<_>) = missing.partition(|cluster| cluster.unsigned);
        let names = |list: Vec<&api::ClusterProgress>| list.into_iter().map(|cluster| cluster.name.clone()).collect();
        (names(unsigned), names(missing))
    }

    /// Open tokens that pin another root than the one that signs: whom they lead to shows that one now, or soon.
    fn outdated_tokens(&self) -> usize {
        let Some(issuer) = self.registry.trust().map(|trust| trust.issuer().key) else { return 0 };
        let open = |token: &&Token| token_state(token, self.now) == TokenState::Open;
        self.registry.tokens().values().filter(open).filter(|token| token.root != issuer).count()
    }
}

fn progress(id: NodeId, node: &Node, waits_for: &BTreeSet<NodeId>) -> api::GatewayProgress {
    api::GatewayProgress {
        node: id,
        name: node.gateway.clone(),
        done: !waits_for.contains(&id),
        certified_by: node.latest().map(|issued| issued.certificates.root),
    }
}
