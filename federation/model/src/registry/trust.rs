//! What the federation trusts: its roots, who keeps their keys, and the way from one root to the next.
//!
//! A root's key is kept in one of two ways: sealed to each voter, so that any voter can sign and no learner can
//! read it, or offline with the operator. What is here are envelopes; they are made and opened elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::RETIRED_ROOT_KEPT;
use super::node::NodeId;
use super::token::Digest;
use crate::blob::Blob;
use crate::command::Refusal;
use crate::time::UnixMillis;

/// Envelopes of one root's key: as many as there may be voters, and those that are leaving.
pub const ENVELOPES_MAX: usize = 16;

/// A secret, sealed to one gateway with HPKE (RFC 9180).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The encapsulated key.
    pub encapsulated: Blob,
    /// The secret under it.
    pub ciphertext: Blob,
}

/// A secret, sealed to several gateways. Written as a list of pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(NodeId, Envelope)>", into = "Vec<(NodeId, Envelope)>")]
pub struct Envelopes(pub BTreeMap<NodeId, Envelope>);

impl From<Vec<(NodeId, Envelope)>> for Envelopes {
    fn from(pairs: Vec<(NodeId, Envelope)>) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl From<Envelopes> for Vec<(NodeId, Envelope)> {
    fn from(envelopes: Envelopes) -> Self {
        envelopes.0.into_iter().collect()
    }
}

/// Where a root's private key is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Custody {
    /// Here, sealed to each of these gateways.
    Sealed {
        /// By gateway.
        envelopes: Envelopes,
    },
    /// With the operator.
    Offline,
}

/// A root of trust.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Its certificate, DER.
    pub certificate: Blob,
    /// SHA-256 of its key (SPKI).
    pub key: Digest,
    /// Where its private key is.
    pub custody: Custody,
}

/// How far the change to a new root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The new root is made known; the old one signs.
    Distribute,
    /// The new root signs; everything signed by the old one is replaced.
    Reissue,
}

/// A change of root that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// How far it is.
    pub phase: Phase,
    /// When it was begun.
    pub started_at: UnixMillis,
    /// The gateways that have done what the phase asks of them and of their sidecars.
    pub done: BTreeSet<NodeId>,
}

/// Everything about roots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// One root, or two while the second replaces the first.
    roots: Vec<Root>,
    rotation: Option<Rotation>,
    /// Roots that were replaced, by their keys, and when.
    #[serde(default)]
    retired: BTreeMap<Digest, UnixMillis>,
}

impl Trust {
    /// Trust in one root.
    #[must_use]
    pub fn new(root: Root) -> Self {
        Self { roots: vec![root], rotation: None, retired: BTreeMap::new() }
    }

    /// The roots, the oldest first.
    #[must_use]
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The change of root that is under way.
    #[must_use]
    pub fn rotation(&self) -> Option<&Rotation> {
        self.rotation.as_ref()
    }

    /// The root that signs.
    #[must_use]
    pub fn issuer(&self) -> &Root {
        let newest = self.rotation.as_ref().is_some_and(|rotation| rotation.phase == Phase::Reissue);
        let issuer = if newest { self.roots.last() } else { self.roots.first() };
        issuer.expect("there is a root from the founding on")
    }

    fn root_mut(&mut self, key: &Digest) -> Result<&mut Root, Refusal> {
        self.roots.iter_mut().find(|root| root.key == *key).ok_or(Refusal::RootUnknown)
    }

    /// Whether `node` can open the key of the root `key`.
    #[must_use]
    pub fn is_keeper(&self, key: &Digest, node: NodeId) -> bool {
        let root = self.roots.iter().find(|root| root.key == *key);
        root.is_some_and(
            |root| matches!(&root.custody, Custody::Sealed { envelopes } if envelopes.0.contains_key(&node)),
        )
    }

    /// Seals a root's key to other gateways. `false` when that changes nothing.
    pub(super) fn reseal(&mut self, key: &Digest, envelopes: &Envelopes) -> Result<bool, Refusal> {
        let root = self.root_mut(key)?;
        match &mut root.custody {
            Custody::Offline => Err(Refusal::RootOffline),
            Custody::Sealed { envelopes: known } if known == envelopes => Ok(false),
            Custody::Sealed { envelopes: known } => {
                known.clone_from(envelopes);
                Ok(true)
            }
        }
    }

    /// Adds the root that shall replace the present one.
    pub(super) fn start(&mut self, root: &Root, at: UnixMillis) -> Result<bool, Refusal> {
        match (&self.rotation, self.roots.last()) {
            (Some(_), Some(last)) if last.key == root.key => return Ok(false),
            (Some(_), _) => return Err(Refusal::RotationUnderWay),
            (None, Some(last)) if last.key == root.key => return Err(Refusal::SameRoot),
            (None, _) => {}
        }
        self.retired.retain(|_, retired| retired.saturating_add(RETIRED_ROOT_KEPT) > at);
        if self.retired.contains_key(&root.key) {
            return Err(Refusal::RootRetired);
        }
        self.roots.push(root.clone());
        self.rotation = Some(Rotation { phase: Phase::Distribute, started_at: at, done: BTreeSet::new() });
        Ok(true)
    }

    /// Notes that a gateway has done its part of `phase`.
    pub(super) fn acknowledge(&mut self, node: NodeId, root: &Digest, phase: Phase) -> bool {
        let newest = self.roots.last().is_some_and(|last| last.key == *root);
        match &mut self.rotation {
            Some(rotation) if newest && rotation.phase == phase => rotation.done.insert(node),
            _ => false,
        }
    }

    /// Goes on to what follows `from` in the change to `root`. `missing` are the gateways that have not done
    /// their part of the present phase.
    pub(super) fn advance(
        &mut self,
        root: &Digest,
        from: Phase,
        missing: Vec<NodeId>,
        at: UnixMillis,
    ) -> Result<bool, Refusal> {
        let newest = self.roots.last().is_some_and(|last| last.key == *root);
        let Some(rotation) = self.rotation.as_mut().filter(|_| newest) else {
            // Retired already, if the new root is the one that is left.
            return if newest { Ok(false) } else { Err(Refusal::RootUnknown) };
        };
        if rotation.phase > from {
            return Ok(false);
        }
        if rotation.phase < from {
            return Err(Refusal::RotationUnderWay);
        }
        if !missing.is_empty() {
            return Err(Refusal::RotationWaits { nodes: missing });
        }
        match from {
            Phase::Distribute => (rotation.phase, rotation.done) = (Phase::Reissue, BTreeSet::new()),
            Phase::Reissue => {
                let retired = self.roots.drain(..self.roots.len() - 1).map(|root| (root.key, at));
                self.retired.extend(retired);
                self.rotation = None;
            }
        }
        Ok(true)
    }

    /// Gives the change up, unless the new root has signed something. An offline one may never come to it: its key
    /// may turn out to be lost.
    pub(super) fn abort(&mut self, has_signed: bool) -> Result<bool, Refusal> {
        match &self.rotation {
            None => Ok(false),
            Some(_) if has_signed => Err(Refusal::RotationUnderWay),
            Some(_) => {
                self.roots.pop();
                self.rotation = None;
                Ok(true)
            }
        }
    }

    /// Forgets a gateway that is gone: what was sealed to it, and what was waited for.
    pub(super) fn forget(&mut self, node: NodeId) {
        for root in &mut self.roots {
            if let Custody::Sealed { envelopes } = &mut root.custody {
                envelopes.0.remove(&node);
            }
        }
        if let Some(rotation) = &mut self.rotation {
            rotation.done.remove(&node);
        }
    }
}
