//! The way in: tokens, redemption, and the certificates that make a gateway a member.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::command::{Introduction, Outcome, Refusal};
use crate::name::ClusterName;
use crate::time::UnixMillis;

use super::audit::Event;
use super::node::{Certificates, ISSUED_MAX, Node, NodeId, Pending, Requests};
use super::token::{Admitted, Digest, Grant, Invitation, Redemption, TOKEN_USES_MAX, Token, TokenId};
use super::trust::Custody;
use super::{NODES_MAX, Registry, TOKEN_RECORD_KEPT, TOKENS_MAX, TOKENS_PER_CLUSTER_MAX, limit, retain};

/// How long keys are denied whose certificates, if there are any, are not on record: longer than any lasts.
pub(super) const PENDING_DENIED: Duration = Duration::from_secs(100 * 24 * 3600);
/// The largest request or certificate on record, in bytes: four times what a federation's are.
pub const DER_LEN_MAX: usize = 4_096;

impl Registry {
    /// Whether `minter` may give out what `grant` gives. A workload's identity is its own cluster's to give, and so are
    /// further gateways of it. Other clusters are invited by administrators alone: whoever comes in may come to vote,
    /// and whoever votes can open the root's key.
    fn check_grantor(
        &self,
        minter: &ClusterName,
        grant: &Grant,
        newcomer: Option<&ClusterName>,
    ) -> Result<(), Refusal> {
        match grant {
            Grant::Workload { cluster, .. } if cluster != minter => Err(Refusal::NotOwner { origin: minter.clone() }),
            Grant::Workload { .. } => Ok(()),
            Grant::Join(Invitation { cluster: granted, .. }) => {
                let own = newcomer.or(granted.as_ref()) == Some(minter);
                if own { Ok(()) } else { self.check_administrator(minter) }
            }
        }
    }

    pub(super) fn mint(&mut self, id: &TokenId, token: Token, at: UnixMillis) -> Result<Outcome, Refusal> {
        // Whoever waits for an offline root comes again with its token until it is certified.
        let nodes = &self.nodes;
        let waits = |used: &Redemption| nodes.get(&used.node).is_some_and(|node| !node.is_certified());
        let kept = |token: &Token| {
            token.expires_at.saturating_add(TOKEN_RECORD_KEPT) > at || token.redemptions.iter().any(waits)
        };
        if let Some(known) = self.tokens.get(id).filter(|known| kept(known)) {
            return if known.same_content(&token) { Ok(Outcome::Unchanged) } else { Err(Refusal::TokenConflict) };
        }
        if self.tokens.values().filter(|known| kept(known)).count() >= TOKENS_MAX {
            return Err(limit("tokens", TOKENS_MAX));
        }
        let own = |known: &&Token| known.minted_by == token.minted_by && kept(known);
        if self.tokens.values().filter(own).count() >= TOKENS_PER_CLUSTER_MAX {
            return Err(limit("tokens of one cluster", TOKENS_PER_CLUSTER_MAX));
        }
        if matches!(&token.grant, Grant::Join(invitation) if !(1..=TOKEN_USES_MAX).contains(&invitation.uses)) {
            return Err(limit("uses of one token", TOKEN_USES_MAX as usize));
        }
        self.check_grantor(&token.minted_by, &token.grant, None)?;
        retain(&mut self.tokens, kept);
        let event = Event::TokenMinted { token: id.clone(), gateway: token.minted_at_gateway.clone() };
        self.record(at, &token.minted_by.clone(), event);
        self.tokens.insert(id.clone(), token);
        Ok(Outcome::Changed)
    }

    /// Makes a token useless from now on, and takes back what it vouched for in its cluster. Whatever else has its id,
    /// or when its record is gone already, a cluster takes back what it vouched for in itself.
    pub(super) fn revoke(&mut self, origin: &ClusterName, id: &TokenId, at: UnixMillis) -> Result<Outcome, Refusal> {
        let administrator = self.is_administrator(origin);
        let revocable = self.tokens.get_mut(id).filter(|token| token.minted_by == *origin || administrator);
        let own_join = |token: &Token| token.minted_by == *origin && matches!(token.grant, Grant::Join(_));
        let (mut changed, mut clusters) = (false, BTreeSet::from([origin.clone()]));
        if let Some(token) = revocable {
            if own_join(token) {
                if token.is_used_up() {
                    return Err(Refusal::TokenUsed);
                }
                clusters.clear();
            }
            if let Grant::Workload { cluster, .. } = &token.grant {
                clusters.insert(cluster.clone());
            }
            changed = token.revoked_at.is_none();
            token.revoked_at.get_or_insert(at);
        }
        for cluster in clusters {
            changed |= self.withdraw_voucher(&cluster, id, at);
        }
        if !changed {
            return Ok(Outcome::Unchanged);
        }
        self.record(at, origin, Event::TokenRevoked { token: id.clone() });
        Ok(Outcome::Changed)
    }

    pub(super) fn redeem(
        &mut self,
        origin: &ClusterName,
        id: &TokenId,
        secret_hash: &Digest,
        newcomer: &Introduction,
        from: Option<IpAddr>,
        at: UnixMillis,
    ) -> Result<Outcome, Refusal> {
        let token = self.token(id)?;
        if let Admitted::Again(Redemption { node, .. }) = token.admits(secret_hash, newcomer, from, at)? {
            // Replaced since: its place is another's.
            let stands = self.nodes.contains_key(&node);
            return if stands { Ok(Outcome::Admitted { node }) } else { Err(Refusal::TokenUsed) };
        }
        // Checked again: the cluster may have become a member since the token was minted.
        self.check_grantor(&token.minted_by, &token.grant, Some(&newcomer.cluster))?;
        self.check_address(&newcomer.east_west)?;
        check_requests(&newcomer.requests)?;
        self.check_keys(&newcomer.requests, |node| node.is_gateway(newcomer))?;
        if self.nodes.values().filter(|node| !node.is_gateway(newcomer)).count() >= NODES_MAX {
            return Err(limit("gateways", NODES_MAX));
        }
        if self.nodes.values().any(|node| node.is_gateway(newcomer)) {
            self.check_denied_by_itself(&newcomer.cluster)?;
        }
        let node = self.admit(newcomer, at);
        if let Some(token) = self.tokens.get_mut(id) {
            token.redemptions.push(Redemption { key: newcomer.requests.gateway_key, node, from, at });
        }
        let (cluster, gateway) = (newcomer.cluster.clone(), newcomer.gateway.clone());
        self.record(at, origin, Event::TokenRedeemed { token: id.clone(), cluster, gateway, node, from });
        Ok(Outcome::Admitted { node })
    }

    /// Whether an address can be another machine's: every gateway of the federation will dial it.
    pub(super) fn check_address(&self, address: &SocketAddr) -> Result<(), Refusal> {
        let ip = address.ip().to_canonical();
        let local = match ip {
            IpAddr::V4(four) => four.is_link_local() || four.is_broadcast(),
            IpAddr::V6(six) => six.is_unicast_link_local(),
        };
        // A federation on one machine has all of its gateways there.
        let at_home = ip.is_loopback() && !self.nodes.values().any(|node| node.east_west.ip().is_loopback());
        if local || at_home || ip.is_unspecified() || ip.is_multicast() || address.port() == 0 {
            return Err(Refusal::BadAddress { address: *address });
        }
        Ok(())
    }

    /// A key names one gateway for good.
    fn check_keys(&self, requests: &Requests, own: impl Fn(&Node) -> bool) -> Result<(), Refusal> {
        let asked = [requests.gateway_key, requests.authority_key];
        if asked.iter().any(|key| self.denied.contains_key(key)) {
            return Err(Refusal::KeyDenied);
        }
        let mut others = self.nodes.values().filter(|node| !own(node));
        match others.find(|node| node.keys().any(|key| asked.contains(&key))) {
            Some(owner) => Err(Refusal::KeyInUse { cluster: owner.cluster.clone(), gateway: owner.gateway.clone() }),
            None => Ok(()),
        }
    }

    /// Gives a gateway its node id. A gateway of the same name in the same cluster is replaced: it came
    /// back without its data, and its old replica must not: what it showed itself with is denied from now on. What
    /// it signed for workloads stays good.
    pub(super) fn admit(&mut self, newcomer: &Introduction, at: UnixMillis) -> NodeId {
        let replaced: Vec<NodeId> =
            self.nodes.iter().filter(|(_, node)| node.is_gateway(newcomer)).map(|(id, _)| *id).collect();
        let mut admitted = Node::admitted(newcomer, at);
        for id in replaced {
            let Some(node) = self.remove_node(id) else { continue };
            // It may come back with the keys that it had.
            let again = |key: &Digest| [newcomer.requests.gateway_key, newcomer.requests.authority_key].contains(key);
            for issued in node.issued.iter().filter(|issued| !again(&issued.gateway_key)) {
                self.deny_key(issued.gateway_key, &node.cluster, issued.certificates.not_after, at);
            }
            admitted.inherited = node.legacy(at);
        }
        self.next_node += 1;
        self.nodes.insert(self.next_node, admitted);
        self.next_node
    }

    pub(super) fn request_certificates(
        &mut self,
        origin: &ClusterName,
        id: NodeId,
        requests: &Requests,
        at: UnixMillis,
    ) -> Result<Outcome, Refusal> {
        check_requests(requests)?;
        let node = self.own_node(origin, id)?;
        let waits = node.pending.as_ref().is_some_and(|pending| pending.requests.same_keys(requests));
        if waits || node.issued_for(requests).is_some() {
            return Ok(Outcome::Unchanged);
        }
        // Each renewal has keys of its own: those that are asked for in vain are denied.
        if node.keys().any(|key| [requests.gateway_key, requests.authority_key].contains(&key)) {
            let (cluster, gateway) = (node.cluster.clone(), node.gateway.clone());
            return Err(Refusal::KeyInUse { cluster, gateway });
        }
        if node.pending.is_some() {
            self.check_denied_by_itself(origin)?;
        }
        let node = self.own_node(origin, id)?;
        if node.issued.iter().filter(|issued| issued.certificates.not_after > at).count() >= ISSUED_MAX {
            return Err(limit("valid certificates of one gateway", ISSUED_MAX));
        }
        self.check_keys(requests, |node| std::ptr::eq(node, &self.nodes[&id]))?;
        let node = self.nodes.get_mut(&id).ok_or(Refusal::NodeUnknown { node: id })?;
        let superseded = node.pending.replace(Pending { requests: requests.clone(), since: at });
        if let Some(Pending { requests: Requests { gateway_key, authority_key, .. }, .. }) = superseded {
            // They may have been signed in the meantime, in an answer that comes too late to be on record.
            for key in [gateway_key, authority_key] {
                self.deny_key(key, origin, at.saturating_add(PENDING_DENIED), at);
            }
        }
        Ok(Outcome::Changed)
    }

    pub(super) fn issue(
        &mut self,
        origin: &ClusterName,
        id: NodeId,
        authority_key: &Digest,
        certificates: &Certificates,
        at: UnixMillis,
    ) -> Result<Outcome, Refusal> {
        let issuer = self.trust().ok_or(Refusal::NotFounded)?.issuer();
        let may = match &issuer.custody {
            Custody::Sealed { envelopes } => {
                envelopes.0.keys().any(|keeper| self.nodes.get(keeper).is_some_and(|node| node.cluster == *origin))
            }
            Custody::Offline => self.is_administrator(origin),
        };
        if !may {
            return Err(Refusal::NotKeeper { origin: origin.clone() });
        }
        let root = issuer.key;
        let node = self.nodes.get_mut(&id).ok_or(Refusal::NodeUnknown { node: id })?;
        let answers = node.pending.take_if(|pending| pending.requests.authority_key == *authority_key);
        // Answered already, or asked anew: nothing is waiting for this.
        let Some(pending) = answers else { return Ok(Outcome::Unchanged) };
        let flaw = if certificates.root != root {
            Some(Refusal::WrongIssuer)
        } else if certificates.gateway.0.len().max(certificates.intermediate.0.len()) > DER_LEN_MAX {
            Some(limit("bytes of a certificate", DER_LEN_MAX))
        } else {
            None
        };
        if let Some(refusal) = flaw {
            node.pending = Some(pending);
            return Err(refusal);
        }
        let cluster = node.cluster.clone();
        node.certify(pending, certificates.clone(), at);
        self.record(at, origin, Event::Certified { node: id, cluster, authority_key: *authority_key, root });
        Ok(Outcome::Changed)
    }
}

fn check_requests(requests: &Requests) -> Result<(), Refusal> {
    let longest = requests.gateway.0.len().max(requests.authority.0.len());
    if longest > DER_LEN_MAX { Err(limit("bytes of a certificate request", DER_LEN_MAX)) } else { Ok(()) }
}
