//! The registry: the state that every gateway agrees on, as a pure state machine.
//!
//! [`Registry::apply`] is the only way to change it. It never fails half way: an entry is either applied
//! whole or refused with a [`Refusal`] and no effect, so replicas cannot diverge over a bad entry.

pub mod admission;
pub mod audit;
pub mod departure;
pub mod exports;
pub mod node;
pub mod restoration;
pub mod token;
pub mod trust;
pub mod voucher;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};

use crate::command::{Command, Entry, Introduction, Outcome, Refusal};
use crate::name::{ClusterName, FederationDomain};
use crate::time::UnixMillis;
use crate::vip::VipTable;

use audit::{Event, Record};
use departure::{Denied, Departure};
use exports::{Exports, Offered};
use node::{Certificates, Node, NodeId, Pending};
use restoration::Lineage;
use token::{Digest, Token, TokenId};
use trust::{Custody, ENVELOPES_MAX, Envelopes, Phase, Root, Trust};

/// Gateways in a federation. Far above the 200 that are planned for; a learner costs the leader a stream.
pub const NODES_MAX: usize = 1_000;
/// Services that one cluster may export.
pub const EXPORTS_PER_CLUSTER_MAX: usize = 50_000;
/// Tokens on record, so that a runaway script cannot fill the registry.
pub const TOKENS_MAX: usize = 10_000;
/// Those that one cluster minted: no member keeps the others from minting.
pub const TOKENS_PER_CLUSTER_MAX: usize = 2_500;
/// How long a token's record outlives its expiry, so that late redemptions still hear "expired".
pub const TOKEN_RECORD_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a root that was replaced may not come back: until all that it signed has ended. With it, that would be
/// trusted again.
pub const RETIRED_ROOT_KEPT: Duration = Duration::from_secs(100 * 24 * 3600);

/// The federation itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Federation {
    /// Its name.
    pub domain: FederationDomain,
    /// Its roots of trust.
    pub trust: Trust,
    /// The clusters whose operators may act on others: invite gateways to them, fence them, rotate the root.
    pub administrators: BTreeSet<ClusterName>,
    /// When it was founded.
    pub founded_at: UnixMillis,
    /// Which restored copy of the registry this is, told apart from what it was restored from; none since the
    /// founding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Lineage>,
    /// When it was last restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_at: Option<UnixMillis>,
}

/// How late a state of the registry is, as those see it who are told a part of it: a later one is never taken back for
/// an earlier one. A restored registry is later than all that was lost with the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch {
    /// When the registry was last restored; the Unix epoch if it never was.
    pub restored_at: UnixMillis,
    /// [`Registry::revision`].
    pub revision: u64,
}

/// Everything agreed. A copy shares all with what it was made from, until one of both changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    federation: Option<Arc<Federation>>,
    nodes: OrdMap<NodeId, Node>,
    next_node: NodeId,
    tokens: OrdMap<TokenId, Token>,
    /// Workload tokens whose word counts no more, by cluster, and since when.
    #[serde(default)]
    withdrawn: OrdMap<ClusterName, OrdMap<TokenId, UnixMillis>>,
    /// Keys that are not trusted any more.
    denied: OrdMap<Digest, Denied>,
    /// Clusters that are gone.
    departed: OrdMap<ClusterName, Departure>,
    /// Clusters whose traffic is moved away, and since when.
    draining: OrdMap<ClusterName, UnixMillis>,
    audit: Vector<Record>,
    exports: Exports,
    vips: VipTable,
    /// Counts the entries that changed something.
    revision: u64,
    /// The latest time that an entry carried.
    now: UnixMillis,
}

impl Registry {
    /// The federation, once founded.
    #[must_use]
    pub fn federation(&self) -> Option<&Federation> {
        self.federation.as_deref()
    }

    fn federation_mut(&mut self) -> Option<&mut Federation> {
        self.federation.as_mut().map(Arc::make_mut)
    }

    /// Every gateway by id.
    #[must_use]
    pub fn nodes(&self) -> &OrdMap<NodeId, Node> {
        &self.nodes
    }

    /// The gateways that were certified: those that exist for others.
    pub fn members(&self) -> impl Iterator<Item = (&NodeId, &Node)> {
        self.nodes.iter().filter(|(_, node)| node.is_certified())
    }

    /// Every member cluster.
    #[must_use]
    pub fn clusters(&self) -> BTreeSet<&ClusterName> {
        self.members().map(|(_, node)| &node.cluster).collect()
    }

    /// The federation's roots of trust, once founded.
    #[must_use]
    pub fn trust(&self) -> Option<&Trust> {
        self.federation.as_ref().map(|federation| &federation.trust)
    }

    /// The root certificates, DER.
    #[must_use]
    pub fn root_certificates(&self) -> Vec<Vec<u8>> {
        let roots = self.trust().map(Trust::roots).unwrap_or_default();
        roots.iter().map(|root| root.certificate.0.clone()).collect()
    }

    /// Keys that are not trusted any more.
    #[must_use]
    pub fn denied(&self) -> &OrdMap<Digest, Denied> {
        &self.denied
    }

    /// The keys that a data plane of `cluster` does not trust. A cluster that is no member any more goes on among
    /// itself: to its own, its own keys are not denied.
    #[must_use]
    pub fn denied_in(&self, cluster: &ClusterName) -> BTreeSet<Digest> {
        let apart = self.departed.contains_key(cluster) && !self.is_member(cluster);
        let denied = self.denied.iter().filter(|(_, denied)| !(apart && denied.cluster == *cluster));
        denied.map(|(key, _)| *key).collect()
    }

    /// Clusters that left or were fenced.
    #[must_use]
    pub fn departed(&self) -> &OrdMap<ClusterName, Departure> {
        &self.departed
    }

    /// Since when a cluster's traffic is moved away.
    #[must_use]
    pub fn draining_since(&self, cluster: &ClusterName) -> Option<UnixMillis> {
        self.draining.get(cluster).copied()
    }

    /// What happened, the oldest first.
    #[must_use]
    pub fn audit(&self) -> &Vector<Record> {
        &self.audit
    }

    /// Tokens on record.
    #[must_use]
    pub fn tokens(&self) -> &OrdMap<TokenId, Token> {
        &self.tokens
    }

    /// Every export.
    #[must_use]
    pub fn exports(&self) -> &Exports {
        &self.exports
    }

    /// What `cluster` is on record as exporting.
    #[must_use]
    pub fn exports_of(&self, cluster: &ClusterName) -> Offered {
        self.exports.of(cluster).cloned().unwrap_or_default()
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

    /// How late this state is.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        let restored_at = self.federation.as_ref().and_then(|federation| federation.restored_at).unwrap_or_default();
        Epoch { restored_at, revision: self.revision }
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
        let origin = &entry.origin;
        match &entry.command {
            Command::Found { .. } => {}
            // It asks again, for the answer was lost, and is no member by now.
            Command::Leave { cluster } if cluster == origin && self.has_left(cluster) => {}
            _ => self.check_member(origin)?,
        }
        match &entry.command {
            Command::Found { federation, root, founder, certificates } => {
                self.found(federation, root, founder, certificates, at)
            }
            Command::MintToken { id, secret_hash, grant, expires_at, gateway, root } => {
                let token = Token {
                    secret_hash: *secret_hash,
                    grant: grant.clone(),
                    minted_by: origin.clone(),
                    minted_at_gateway: gateway.clone(),
                    root: *root,
                    minted_at: at,
                    expires_at: *expires_at,
                    revoked_at: None,
                    redemptions: Vec::new(),
                };
                self.mint(id, token, at)
            }
            Command::RevokeToken { id } => self.revoke(origin, id, at),
            Command::RedeemToken { id, secret_hash, newcomer, from } => {
                self.redeem(origin, id, secret_hash, newcomer, *from, at)
            }
            Command::RequestCertificates { node, requests } => self.request_certificates(origin, *node, requests, at),
            Command::Issue { node, authority_key, certificates } => {
                self.issue(origin, *node, authority_key, certificates, at)
            }
            Command::UpdateNode { node, east_west, control, locality } => {
                self.check_address(east_west)?;
                control.iter().try_for_each(|control| self.check_address(control))?;
                let record = self.own_node(origin, *node)?;
                let (east_west, control, locality) = (*east_west, *control, locality.clone());
                let updated = Node { east_west, control, locality, ..record.clone() };
                let changed = updated != *record;
                *record = updated;
                Ok(if changed { Outcome::Changed } else { Outcome::Unchanged })
            }
            Command::Drain { cluster, draining } => self.drain(origin, cluster, *draining, at),
            Command::Leave { cluster } => self.leave(origin, cluster, at),
            Command::Fence { cluster, why } => self.fence(origin, cluster, why, at),
            Command::Unfence { cluster } => self.unfence(origin, cluster, at),
            Command::SetAdministrator { cluster, administrator } => {
                self.set_administrator(origin, cluster, *administrator, at)
            }
            Command::SetExport { service, export } => self.set_export(origin, service, export, at),
            Command::WithdrawExport { service } => Ok(self.withdraw(origin, service)),
            Command::Reseal { .. }
            | Command::StartRotation { .. }
            | Command::Acknowledge { .. }
            | Command::AdvanceRotation { .. }
            | Command::AbortRotation => self.change_trust(origin, &entry.command, at),
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

    /// Whether a cluster's operators may act on others.
    #[must_use]
    pub fn is_administrator(&self, cluster: &ClusterName) -> bool {
        self.federation.as_ref().is_some_and(|federation| federation.administrators.contains(cluster))
    }

    fn check_administrator(&self, origin: &ClusterName) -> Result<(), Refusal> {
        if self.is_administrator(origin) { Ok(()) } else { Err(Refusal::NotAdministrator { origin: origin.clone() }) }
    }

    /// A gateway of the origin's own.
    fn own_node(&mut self, origin: &ClusterName, id: NodeId) -> Result<&mut Node, Refusal> {
        let node = self.nodes.get_mut(&id).ok_or(Refusal::NodeUnknown { node: id })?;
        if node.cluster == *origin { Ok(node) } else { Err(Refusal::NotOwner { origin: origin.clone() }) }
    }

    fn record(&mut self, at: UnixMillis, origin: &ClusterName, event: Event) {
        audit::make_room(&mut self.audit);
        self.audit.push_back(Record { at, origin: origin.clone(), event });
    }

    fn found(
        &mut self,
        domain: &FederationDomain,
        root: &Root,
        founder: &Introduction,
        certificates: &Certificates,
        at: UnixMillis,
    ) -> Result<Outcome, Refusal> {
        if let Some(federation) = &self.federation {
            let known = federation.trust.roots().iter().any(|known| known.key == root.key);
            return if federation.domain == *domain && known {
                Ok(Outcome::Unchanged)
            } else {
                Err(Refusal::AlreadyFounded { federation: federation.domain.clone() })
            };
        }
        let id = self.admit(founder, at);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.pending = None;
            node.certify(Pending { requests: founder.requests.clone(), since: at }, certificates.clone(), at);
        }
        self.federation = Some(Arc::new(Federation {
            domain: domain.clone(),
            trust: Trust::new(root.clone()),
            administrators: BTreeSet::from([founder.cluster.clone()]),
            founded_at: at,
            lineage: None,
            restored_at: None,
        }));
        self.record(at, &founder.cluster, Event::Founded);
        Ok(Outcome::Admitted { node: id })
    }

    fn set_administrator(
        &mut self,
        origin: &ClusterName,
        cluster: &ClusterName,
        administrator: bool,
        at: UnixMillis,
    ) -> Result<Outcome, Refusal> {
        self.check_administrator(origin)?;
        if administrator && !self.is_member(cluster) {
            return Err(Refusal::ClusterUnknown { cluster: cluster.clone() });
        }
        if self.is_administrator(cluster) == administrator {
            return Ok(Outcome::Unchanged);
        }
        let Some(federation) = self.federation_mut() else { return Err(Refusal::NotFounded) };
        if administrator {
            federation.administrators.insert(cluster.clone());
        } else if federation.administrators.len() == 1 {
            return Err(Refusal::LastAdministrator { cluster: cluster.clone() });
        } else {
            federation.administrators.remove(cluster);
        }
        self.record(at, origin, Event::AdministratorSet { cluster: cluster.clone(), administrator });
        Ok(Outcome::Changed)
    }

    /// The gateways that have not done their part of the present phase of a rotation. A gateway's word is not enough
    /// for the last step: its certificates have to be the new root's.
    #[must_use]
    pub fn rotation_waits_for(&self) -> Vec<NodeId> {
        let Some((rotation, root)) = self.trust().and_then(|trust| Some((trust.rotation()?, trust.roots().last()?)))
        else {
            return Vec::new();
        };
        let reissued = |node: &Node| node.latest().is_some_and(|issued| issued.certificates.root == root.key);
        let done = |id: &NodeId, node: &Node| {
            rotation.done.contains(id) && (rotation.phase < Phase::Reissue || reissued(node))
        };
        self.members().filter(|(id, node)| !done(id, node)).map(|(id, _)| *id).collect()
    }

    /// What concerns the roots.
    fn change_trust(&mut self, origin: &ClusterName, command: &Command, at: UnixMillis) -> Result<Outcome, Refusal> {
        match command {
            Command::Reseal { root, envelopes } => self.check_reseal(origin, root, envelopes)?,
            Command::Acknowledge { node, .. } => {
                self.own_node(origin, *node)?;
            }
            _ => self.check_administrator(origin)?,
        }
        if let Command::StartRotation { root } = command {
            self.check_envelopes(&root.custody)?;
        }
        let missing = self.rotation_waits_for();
        let has_signed = self.has_signed_since_its_rotation();
        let trust = &mut self.federation_mut().ok_or(Refusal::NotFounded)?.trust;
        let (changed, event) = match command {
            Command::Reseal { root, envelopes } => {
                let keepers = envelopes.0.keys().copied().collect();
                (trust.reseal(root, envelopes)?, Some(Event::Resealed { root: *root, keepers }))
            }
            Command::StartRotation { root } => {
                (trust.start(root, at)?, Some(Event::RotationStarted { root: root.key }))
            }
            Command::Acknowledge { node, root, phase } => (trust.acknowledge(*node, root, *phase), None),
            Command::AdvanceRotation { root, from } => {
                (trust.advance(root, *from, missing, at)?, Some(Event::RotationAdvanced { from: *from }))
            }
            _ => (trust.abort(has_signed)?, Some(Event::RotationAborted)),
        };
        if !changed {
            return Ok(Outcome::Unchanged);
        }
        if let Some(event) = event {
            self.record(at, origin, event);
        }
        Ok(Outcome::Changed)
    }

    /// Whether the root that is to replace the present one has signed something in this rotation.
    fn has_signed_since_its_rotation(&self) -> bool {
        let Some((rotation, root)) = self.trust().and_then(|trust| Some((trust.rotation()?, trust.roots().last()?)))
        else {
            return false;
        };
        let mut issued = self.nodes.values().flat_map(|node| &node.issued);
        issued.any(|one| one.certificates.root == root.key && one.at >= rotation.started_at)
    }

    /// Only who can open the key seals it to others.
    fn check_reseal(&self, origin: &ClusterName, root: &Digest, envelopes: &Envelopes) -> Result<(), Refusal> {
        let trust = self.trust().ok_or(Refusal::NotFounded)?;
        let keeps = |(id, node): (&NodeId, &Node)| node.cluster == *origin && trust.is_keeper(root, *id);
        if !self.members().any(keeps) {
            return Err(Refusal::NotKeeper { origin: origin.clone() });
        }
        self.check_envelopes(&Custody::Sealed { envelopes: envelopes.clone() })
    }

    fn check_envelopes(&self, custody: &Custody) -> Result<(), Refusal> {
        let Custody::Sealed { envelopes } = custody else { return Ok(()) };
        if envelopes.0.is_empty() || envelopes.0.len() > ENVELOPES_MAX {
            return Err(limit("gateways that keep the root's key", ENVELOPES_MAX));
        }
        let stranger = envelopes.0.keys().find(|id| !self.nodes.get(*id).is_some_and(Node::is_certified));
        stranger.map_or(Ok(()), |id| Err(Refusal::NodeUnknown { node: *id }))
    }
}

/// Takes out what is not to be kept.
fn retain<K: Ord + Clone, V: Clone>(map: &mut OrdMap<K, V>, keep: impl Fn(&V) -> bool) {
    let gone: Vec<K> = map.iter().filter(|(_, value)| !keep(value)).map(|(key, _)| key.clone()).collect();
    for key in &gone {
        map.remove(key);
    }
}

fn limit(what: &str, limit: usize) -> Refusal {
    Refusal::LimitReached { what: what.to_owned(), limit }
}

#[cfg(test)]
mod tests;
