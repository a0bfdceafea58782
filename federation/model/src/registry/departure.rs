//! The way out: draining, leaving, being fenced. Keys of clusters that are gone stay denied until their last
//! certificate ends, so that nothing of them comes back with old data.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command::{Outcome, Refusal};
use crate::name::ClusterName;
use crate::time::UnixMillis;

use super::admission::PENDING_DENIED;
use super::audit::Event;
use super::node::{Node, NodeId};
use super::token::{Digest, Grant, Token, TokenId};
use super::trust::{Custody, Root};
use super::{Registry, limit, retain};

/// Keys denied at once. Every gateway of the largest federation, with all that is kept of it.
pub const DENIED_MAX: usize = 10_000;
/// Keys denied of one cluster by what it does itself: asking for certificates anew before it has those that it asked
/// for, and coming back without its data. With more of these it could push its own or others' keys out.
pub const DENIED_BY_ITSELF_MAX: usize = 1_000;
/// How long a key is denied after its last certificate ended: clocks differ.
pub const DENIED_MARGIN: Duration = Duration::from_secs(3_600);
/// Clusters that left or were fenced, on record.
pub const DEPARTED_MAX: usize = 1_000;
/// The longest reason for a fence, in bytes.
pub const WHY_LEN_MAX: usize = 256;

/// A key that is not trusted any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// Whose it was.
    pub cluster: ClusterName,
    /// When its last certificate ends; it need not be denied after that.
    pub until: UnixMillis,
}

/// How a cluster went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Manner {
    /// In order.
    Left,
    /// An operator cut it off.
    Fenced {
        /// Why.
        why: String,
    },
}

/// A cluster that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// How.
    pub manner: Manner,
    /// The cluster whose operator brought it about.
    pub by: ClusterName,
    /// When.
    pub at: UnixMillis,
    /// Its gateways, should the fence be taken back.
    pub nodes: BTreeMap<NodeId, Node>,
}

impl Departure {
    fn is_fence(&self) -> bool {
        matches!(self.manner, Manner::Fenced { .. })
    }
}

impl Registry {
    fn check_member_cluster(&self, cluster: &ClusterName) -> Result<(), Refusal> {
        if self.is_member(cluster) { Ok(()) } else { Err(Refusal::ClusterUnknown { cluster: cluster.clone() }) }
    }

    fn check_own_or_administrator(&self, origin: &ClusterName, cluster: &ClusterName) -> Result<(), Refusal> {
        if origin == cluster { Ok(()) } else { self.check_administrator(origin) }
    }

    pub(super) fn drain(
        &mut self,
        origin: &ClusterName,
        cluster: &ClusterName,
        draining: bool,
        at: UnixMillis,
    ) -> Result<Outcome, Refusal> {
        self.check_own_or_administrator(origin, cluster)?;
        self.check_member_cluster(cluster)?;
        if self.draining.contains_key(cluster) == draining {
            return Ok(Outcome::Unchanged);
        }
        if draining {
            self.draining.insert(cluster.clone(), at);
        } else {
            self.draining.remove(cluster);
        }
        self.record(at, origin, Event::Drained { cluster: cluster.clone(), draining });
        Ok(Outcome::Changed)
    }

    /// Whether a cluster left in order, and did not come back.
    pub(super) fn has_left(&self, cluster: &ClusterName) -> bool {
        !self.is_member(cluster) && self.departed.get(cluster).is_some_and(|gone| gone.manner == Manner::Left)
    }

    pub(super) fn leave(
        &mut self,
        origin: &ClusterName,
        cluster: &ClusterName,
        at: UnixMillis,
    ) -> Result<Outcome, Refusal> {
        self.check_own_or_administrator(origin, cluster)?;
        if self.has_left(cluster) {
            return Ok(Outcome::Unchanged);
        }
        self.depart(origin, cluster, Manner::Left, at)?;
        self.record(at, origin, Event::Left { cluster: cluster.clone() });
        Ok(Outcome::Changed)
    }

    pub(super) fn fence(
        &mut self,
        origin: &ClusterName,
        cluster: &ClusterName,
        why: &str,
        at: UnixMillis,
    ) -> Result<Outcome, Refusal> {
        self.check_administrator(origin)?;
        if origin == cluster {
            return Err(Refusal::FencesItself);
        }
        if why.len() > WHY_LEN_MAX {
            return Err(limit("bytes of a reason", WHY_LEN_MAX));
        }
        if !self.is_member(cluster) && self.departed.get(cluster).is_some_and(Departure::is_fence) {
            return Ok(Outcome::Unchanged);
        }
        self.depart(origin, cluster, Manner::Fenced { why: why.to_owned() }, at)?;
        self.record(at, origin, Event::Fenced { cluster: cluster.clone(), why: why.to_owned() });
        Ok(Outcome::Changed)
    }

    pub(super) fn unfence(
        &mut self,
        origin: &ClusterName,
        cluster: &ClusterName,
        at: UnixMillis,
    ) -> Result<Outcome, Refusal> {
        self.check_administrator(origin)?;
        if self.is_member(cluster) || !self.departed.get(cluster).is_some_and(Departure::is_fence) {
            return Err(Refusal::NotFenced { cluster: cluster.clone() });
        }
        if self.departed.get(cluster).is_some_and(|gone| self.missed_rotation(gone)) {
            return Err(Refusal::MissedRotation { cluster: cluster.clone() });
        }
        if let Some(gone) = self.departed.remove(cluster) {
            for key in gone.nodes.values().flat_map(Node::keys) {
                self.denied.remove(&key);
            }
            self.nodes.extend(gone.nodes);
        }
        self.record(at, origin, Event::Unfenced { cluster: cluster.clone() });
        Ok(Outcome::Changed)
    }

    /// Makes those join tokens useless that are not used up.
    pub(super) fn revoke_joins(&mut self, at: UnixMillis, which: impl Fn(&Token) -> bool) {
        let open = |token: &Token| {
            matches!(token.grant, Grant::Join(_)) && token.revoked_at.is_none() && !token.is_used_up() && which(token)
        };
        let revoked: Vec<TokenId> =
            self.tokens.iter().filter(|(_, token)| open(token)).map(|(id, _)| id.clone()).collect();
        for id in &revoked {
            if let Some(token) = self.tokens.get_mut(id) {
                token.revoked_at = Some(at);
            }
        }
    }

    /// Whether the root that signs now is not the one that signed for them: back among the members, they would
    /// count for the registry's quorum, and nobody could reach them.
    fn missed_rotation(&self, gone: &Departure) -> bool {
        let signs = self.trust().map(|trust| trust.issuer().key);
        gone.nodes.values().filter_map(Node::latest).any(|issued| Some(issued.certificates.root) != signs)
    }

    /// Takes a cluster out, with everything that hangs on it.
    fn depart(
        &mut self,
        by: &ClusterName,
        cluster: &ClusterName,
        manner: Manner,
        at: UnixMillis,
    ) -> Result<(), Refusal> {
        self.check_member_cluster(cluster)?;
        let mut administrators = self.federation.iter().flat_map(|federation| &federation.administrators);
        if self.is_administrator(cluster) && administrators.all(|administrator| administrator == cluster) {
            return Err(Refusal::LastAdministrator { cluster: cluster.clone() });
        }
        let kept_by_others = |root: &Root| match &root.custody {
            Custody::Offline => true,
            Custody::Sealed { envelopes } => {
                envelopes.0.keys().any(|id| self.nodes.get(id).is_some_and(|node| node.cluster != *cluster))
            }
        };
        if !self.trust().is_some_and(|trust| trust.roots().iter().all(kept_by_others)) {
            return Err(Refusal::LastKeeper { cluster: cluster.clone() });
        }
        let ids: Vec<NodeId> =
            self.nodes.iter().filter(|(_, node)| node.cluster == *cluster).map(|(id, _)| *id).collect();
        let nodes: BTreeMap<NodeId, Node> =
            ids.into_iter().filter_map(|id| Some((id, self.remove_node(id)?))).collect();
        for node in nodes.values() {
            self.deny(node, at);
        }
        self.withdraw_all(cluster);
        self.draining.remove(cluster);
        if let Some(federation) = self.federation_mut() {
            federation.administrators.remove(cluster);
        }
        // Its workloads' tokens are its own to give, also while it is apart.
        self.revoke_joins(at, |token| token.is_of(cluster));
        if self.departed.len() >= DEPARTED_MAX {
            let oldest = self.departed.iter().min_by_key(|(_, gone)| gone.at).map(|(name, _)| name.clone());
            oldest.map(|name| self.departed.remove(&name));
        }
        // One that left has nothing to come back to.
        let nodes = if manner == Manner::Left { BTreeMap::new() } else { nodes };
        self.departed.insert(cluster.clone(), Departure { manner, by: by.clone(), at, nodes });
        Ok(())
    }

    pub(super) fn remove_node(&mut self, id: NodeId) -> Option<Node> {
        if let Some(federation) = self.federation_mut() {
            federation.trust.forget(id);
        }
        self.nodes.remove(&id)
    }

    /// Denies every key that was certified for a gateway, for as long as a certificate of it lasts.
    fn deny(&mut self, node: &Node, at: UnixMillis) {
        for issued in &node.issued {
            for key in [issued.gateway_key, issued.authority_key] {
                self.deny_key(key, &node.cluster, issued.certificates.not_after, at);
            }
        }
        if let Some(pending) = &node.pending {
            for key in [pending.requests.gateway_key, pending.requests.authority_key] {
                self.deny_key(key, &node.cluster, at.saturating_add(PENDING_DENIED), at);
            }
        }
        for inherited in &node.inherited {
            self.deny_key(inherited.authority_key, &node.cluster, inherited.not_after, at);
        }
    }

    /// Whether a cluster may do once more what denies keys of its own.
    pub(super) fn check_denied_by_itself(&self, cluster: &ClusterName) -> Result<(), Refusal> {
        let denied = self.denied.values().filter(|denied| denied.cluster == *cluster).count();
        if denied < DENIED_BY_ITSELF_MAX {
            return Ok(());
        }
        Err(limit("keys of one cluster that are not trusted any more", DENIED_BY_ITSELF_MAX))
    }

    /// Denies a key. The list is as long as it may be only if clusters do what they can to fill it: then the one with
    /// the most goes short.
    pub(super) fn deny_key(&mut self, key: Digest, cluster: &ClusterName, not_after: UnixMillis, at: UnixMillis) {
        retain(&mut self.denied, |denied| denied.until > at);
        if self.denied.len() >= DENIED_MAX {
            let mut counts: BTreeMap<&ClusterName, usize> = BTreeMap::new();
            for denied in self.denied.values() {
                *counts.entry(&denied.cluster).or_default() += 1;
            }
            let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(cluster, _)| cluster);
            let of_most = self.denied.iter().filter(|(_, denied)| Some(&denied.cluster) == most);
            let soonest = of_most.min_by_key(|(_, denied)| denied.until).map(|(key, _)| *key);
            soonest.map(|key| self.denied.remove(&key));
        }
        let until = not_after.saturating_add(DENIED_MARGIN);
        self.denied.insert(key, Denied { cluster: cluster.clone(), until });
    }
}
