//! The registry: the state that every gateway agrees on, as a pure state machine.
//!
//! [`Registry::apply`] is the only way to change it. It never fails half way: an entry is either applied
//! whole or refused with a [`Refusal`] and no effect, so replicas cannot diverge over a bad entry.

pub mod node;
pub mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::catalog::{Export, PORTS_PER_SERVICE_MAX};
use crate::command::{Command, Entry, Introduction, Outcome, Refusal};
use crate::name::{ClusterName, FederationDomain, ServiceName};
use crate::time::UnixMillis;
use crate::vip::VipTable;

use node::{Node, NodeId};
use token::{Digest, Grant, Token, TokenId, TokenState};

/// Gateways in a federation. Far above the 200 that are planned for; a learner costs the leader a stream.
pub const NODES_MAX: usize = 1_000;
/// Services that one cluster may export.
pub const EXPORTS_PER_CLUSTER_MAX: usize = 50_000;
/// Tokens on record, so that a runaway script cannot fill the registry.
pub const TOKENS_MAX: usize = 10_000;
/// How long a token's record outlives its expiry, so that late redemptions still hear "expired".
pub const TOKEN_RECORD_KEPT: Duration = Duration::from_secs(24 * 3600);

/// The federation itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Federation {
    /// Its name.
    pub domain: FederationDomain,
    /// Its root certificates, DER; exactly one until a rotation is under way.
    pub roots: Vec<Vec<u8>>,
    /// The gateway that holds the root's private key and signs joins.
    pub custodian: NodeId,
    /// When it was founded.
    pub founded_at: UnixMillis,
}

/// Everything agreed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    federation: Option<Federation>,
    nodes: BTreeMap<NodeId, Node>,
    next_node: NodeId,
    tokens: BTreeMap<TokenId, Token>,
    exports: BTreeMap<ServiceName, BTreeMap<ClusterName, Exported>>,
    vips: VipTable,
    /// Counts the entries that changed something.
    revision: u64,
    /// The latest time that an entry carried.
    now: UnixMillis,
}

/// An export with the time it began; the oldest export of a service decides conflicts (KEP-1645).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// The offer.
    pub export: Export,
    /// When the cluster first offered it.
    pub since: UnixMillis,
}

impl Registry {
    /// The federation, once founded.
    #[must_use]
    pub fn federation(&self) -> Option<&Federation> {
        self.federation.as_ref()
    }

    /// Every gateway by id.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// Every member cluster.
    #[must_use]
    pub fn clusters(&self) -> BTreeSet<&ClusterName> {
        self.nodes.values().map(|node| &node.cluster).collect()
    }

    /// Tokens on record.
    #[must_use]
    pub fn tokens(&self) -> &BTreeMap<TokenId, Token> {
        &self.tokens
    }

    /// Every export: service → cluster → offer.
    #[must_use]
    pub fn exports(&self) -> &BTreeMap<ServiceName, BTreeMap<ClusterName, Exported>> {
        &self.exports
    }

    /// What `cluster` is on record as exporting.
    #[must_use]
    pub fn exports_of(&self, cluster: &ClusterName) -> BTreeMap<ServiceName, Export> {
        let own = |offers: &BTreeMap<ClusterName, Exported>| offers.get(cluster).map(|e| e.export.clone());
        self.exports.iter().filter_map(|(service, offers)| Some((service.clone(), own(offers)?))).collect()
    }

    /// The virtual addresses' numbers.
    #[must_use]
    pub fn vips(&self) -> &VipTable {
        &self.vips
    }

    /// How many entries changed the registry so far.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Looks a token up.
    ///
    /// # Errors
    /// [`Refusal::TokenUnknown`].
    pub fn token(&self, id: &TokenId) -> Result<&Token, Refusal> {
        self.tokens.get(id).ok_or(Refusal::TokenUnknown)
    }

    /// Applies one committed entry.
    ///
    /// # Errors
    /// The refusal, in which case nothing changed.
    pub fn apply(&mut self, entry: &Entry) -> Result<Outcome, Refusal> {
        let at = entry.at.max(self.now);
        let admitted_before = self.next_node;
        let outcome = self.dispatch(entry, at)?;
        self.now = at;
        // An admission that is only told again changed nothing.
        if outcome == Outcome::Changed || self.next_node != admitted_before {
            self.revision += 1;
        }
        Ok(outcome)
    }

    fn dispatch(&mut self, entry: &Entry, at: UnixMillis) -> Result<Outcome, Refusal> {
        if !matches!(entry.command, Command::Found { .. }) {
            self.check_member(&entry.origin)?;
        }
        match &entry.command {
            Command::Found { federation, root, founder } => self.found(federation, root, founder, at),
            Command::MintToken { id, secret_hash, grant, expires_at } => {
                let token = Token {
                    secret_hash: *secret_hash,
                    grant: grant.clone(),
                    minted_by: entry.origin.clone(),
                    minted_at: at,
                    expires_at: *expires_at,
                    state: TokenState::Open,
                };
                self.mint(id, token, at)
            }
            Command::RevokeToken { id } => self.revoke(id, at),
            Command::RedeemToken { id, secret_hash, newcomer } => self.redeem(id, secret_hash, newcomer, at),
            Command::UpdateNode { node, east_west, locality } => {
                let record = self.nodes.get_mut(node).filter(|record| record.cluster == entry.origin);
                let record = record.ok_or_else(|| Refusal::NotOwner { origin: entry.origin.clone() })?;
                let updated = Node { east_west: *east_west, locality: locality.clone(), ..record.clone() };
                let changed = updated != *record;
                *record = updated;
                Ok(if changed { Outcome::Changed } else { Outcome::Unchanged })
            }
            Command::SetExport { service, export } => self.set_export(&entry.origin, service, export, at),
            Command::WithdrawExport { service } => Ok(self.withdraw(&entry.origin, service)),
        }
    }

    fn check_member(&self, origin: &ClusterName) -> Result<(), Refusal> {
        if self.federation.is_none() {
            return Err(Refusal::NotFounded);
        }
        if self.is_member(origin) { Ok(()) } else { Err(Refusal::NotMember { origin: origin.clone() }) }
    }

    fn is_member(&self, cluster: &ClusterName) -> bool {
        self.nodes.values().any(|node| node.cluster == *cluster)
    }

    /// Whether `minter` may give out what `grant` gives. A workload's identity is its own cluster's to give.
    /// Any member may invite a new cluster; a further gateway of a cluster that is a member already gets that
    /// cluster's identity, so only the cluster itself may invite one, or the custodian's, which holds the root
    /// key anyway. Else one stolen cluster key could make itself any other cluster's.
    fn check_grantor(&self, minter: &ClusterName, grant: &Grant) -> Result<(), Refusal> {
        match grant {
            Grant::Workload { cluster, .. } if cluster != minter => Err(Refusal::NotOwner { origin: minter.clone() }),
            Grant::Join { cluster } if cluster != minter && self.is_member(cluster) && !self.is_custodian(minter) => {
                Err(Refusal::TokenNotYours { origin: minter.clone(), cluster: cluster.clone() })
            }
            _ => Ok(()),
        }
    }

    fn is_custodian(&self, cluster: &ClusterName) -> bool {
        let custodian = self.federation.as_ref().and_then(|federation| self.nodes.get(&federation.custodian));
        custodian.is_some_and(|node| node.cluster == *cluster)
    }

    fn found(
        &mut self,
        domain: &FederationDomain,
        root: &[u8],
        founder: &Introduction,
        at: UnixMillis,
    ) -> Result<Outcome, Refusal> {
        if let Some(federation) = &self.federation {
            let again = federation.domain == *domain && federation.roots == [root];
            return if again {
                Ok(Outcome::Unchanged)
            } else {
                Err(Refusal::AlreadyFounded { federation: federation.domain.clone() })
            };
        }
        let custodian = self.admit(founder, at);
        self.federation =
            Some(Federation { domain: domain.clone(), roots: vec![root.to_vec()], custodian, founded_at: at });
        Ok(Outcome::Admitted { node: custodian })
    }

    /// Gives a gateway its node id. A gateway of the same name in the same cluster is replaced: it came
    /// back without its data, and its old replica must not. A replaced custodian stays the custodian: the
    /// operator has to give it the root's key again, and joins tell so until then.
    fn admit(&mut self, newcomer: &Introduction, at: UnixMillis) -> NodeId {
        self.nodes.retain(|_, node| !node.is_gateway(newcomer));
        self.next_node += 1;
        if let Some(federation) = &mut self.federation
            && !self.nodes.contains_key(&federation.custodian)
        {
            federation.custodian = self.next_node;
        }
        let node = Node {
            cluster: newcomer.cluster.clone(),
            gateway: newcomer.gateway.clone(),
            locality: newcomer.locality.clone(),
            east_west: newcomer.east_west,
            key: newcomer.key,
            joined_at: at,
        };
        self.nodes.insert(self.next_node, node);
        self.next_node
    }

    fn mint(&mut self, id: &TokenId, token: Token, at: UnixMillis) -> Result<Outcome, Refusal> {
        let kept = |token: &Token| token.expires_at.saturating_add(TOKEN_RECORD_KEPT) > at;
        if let Some(known) = self.tokens.get(id).filter(|known| kept(known)) {
            return if known.same_content(&token) { Ok(Outcome::Unchanged) } else { Err(Refusal::TokenConflict) };
        }
        if self.tokens.values().filter(|known| kept(known)).count() >= TOKENS_MAX {
            return Err(limit("tokens", TOKENS_MAX));
        }
        self.check_grantor(&token.minted_by, &token.grant)?;
        self.tokens.retain(|_, known| kept(known));
        self.tokens.insert(id.clone(), token);
        Ok(Outcome::Changed)
    }

    fn revoke(&mut self, id: &TokenId, at: UnixMillis) -> Result<Outcome, Refusal> {
        let token = self.tokens.get_mut(id).ok_or(Refusal::TokenUnknown)?;
        match token.state {
            TokenState::Revoked { .. } => Ok(Outcome::Unchanged),
            TokenState::Redeemed { .. } => Err(Refusal::TokenUsed),
            TokenState::Open => {
                token.state = TokenState::Revoked { at };
                Ok(Outcome::Changed)
            }
        }
    }

    fn redeem(
        &mut self,
        id: &TokenId,
        secret_hash: &Digest,
        newcomer: &Introduction,
        at: UnixMillis,
    ) -> Result<Outcome, Refusal> {
        let token = self.token(id)?;
        token.admits(secret_hash, &newcomer.cluster, &newcomer.key, at)?;
        if let TokenState::Redeemed { node, .. } = token.state {
            // Replaced since: its place is another's.
            return if self.nodes.contains_key(&node) {
                Ok(Outcome::Admitted { node })
            } else {
                Err(Refusal::TokenUsed)
            };
        }
        // Checked again: the cluster may have become a member since the token was minted.
        self.check_grantor(&token.minted_by, &token.grant)?;
        let mut others = self.nodes.values().filter(|node| !node.is_gateway(newcomer));
        if others.clone().count() >= NODES_MAX {
            return Err(limit("gateways", NODES_MAX));
        }
        if let Some(owner) = others.find(|node| node.key == newcomer.key) {
            return Err(Refusal::KeyInUse { cluster: owner.cluster.clone(), gateway: owner.gateway.clone() });
        }
        let node = self.admit(newcomer, at);
        if let Some(token) = self.tokens.get_mut(id) {
            token.state = TokenState::Redeemed { key: newcomer.key, node, at };
        }
        Ok(Outcome::Admitted { node })
    }

    fn set_export(
        &mut self,
        origin: &ClusterName,
        service: &ServiceName,
        export: &Export,
        at: UnixMillis,
    ) -> Result<Outcome, Refusal> {
        if export.ports.len() > PORTS_PER_SERVICE_MAX {
            return Err(limit("ports of one service", PORTS_PER_SERVICE_MAX));
        }
        if export.identities.len() > crate::catalog::IDENTITIES_PER_EXPORT_MAX {
            return Err(limit("identities of one export", crate::catalog::IDENTITIES_PER_EXPORT_MAX));
        }
        let known = self.exports.get(service).and_then(|offers| offers.get(origin));
        let since = match known {
            Some(known) if known.export == *export => return Ok(Outcome::Unchanged),
            Some(known) => known.since,
            None => {
                let offered = self.exports.values().filter(|offers| offers.contains_key(origin)).count();
                if offered >= EXPORTS_PER_CLUSTER_MAX {
                    return Err(limit("exports of one cluster", EXPORTS_PER_CLUSTER_MAX));
                }
                at
            }
        };
        let offers = self.exports.entry(service.clone()).or_default();
        offers.insert(origin.clone(), Exported { export: export.clone(), since });
        self.vips.assign(service);
        Ok(Outcome::Changed)
    }

    fn withdraw(&mut self, origin: &ClusterName, service: &ServiceName) -> Outcome {
        let Some(offers) = self.exports.get_mut(service) else { return Outcome::Unchanged };
        if offers.remove(origin).is_none() {
            return Outcome::Unchanged;
        }
        if offers.is_empty() {
            self.exports.remove(service);
            self.vips.retire(service);
        }
        Outcome::Changed
    }
}

fn limit(what: &str, limit: usize) -> Refusal {
    Refusal::LimitReached { what: what.to_owned(), limit }
}

#[cfg(test)]
mod tests;
