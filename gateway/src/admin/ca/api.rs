//! The JSON of the routes about roots of trust.

use isthmus_model::blob::Blob;
use isthmus_model::health::Reach;
use isthmus_model::name::{ClusterName, FederationDomain, Label};
use isthmus_model::registry::node::{NodeId, SealingKey};
use isthmus_model::registry::token::Digest;
use isthmus_model::registry::trust::{Envelopes, Phase};
use isthmus_model::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::admin::api::Member;

/// The federation's roots, and the change from one to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ca {
    /// The oldest first. There are two during a rotation.
    pub roots: Vec<Root>,
    /// The rotation that is under way.
    pub rotation: Option<Rotation>,
    /// Open tokens that pin a root which does not sign any more: they have to be minted anew.
    pub outdated_tokens: usize,
}

/// Where a root's private key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Custody {
    /// In the registry, sealed to the keepers.
    Sealed,
    /// With the operator.
    Offline,
}

/// A root of trust.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// SHA-256 of its public key (SPKI): what tokens pin.
    pub key: Digest,
    /// The subject of its certificate.
    pub subject: String,
    /// When its certificate ends.
    pub not_after: Option<UnixMillis>,
    /// Whether it signs at present.
    pub signs: bool,
    /// Where its private key is.
    pub custody: Custody,
    /// Who can open its sealed key.
    pub keepers: Vec<Member>,
}

/// A change of root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// The new root, by its key.
    pub root: Digest,
    /// How far it is.
    pub phase: Phase,
    /// When it was begun.
    pub started_at: UnixMillis,
    /// Every cluster's part of the phase.
    pub clusters: Vec<ClusterProgress>,
}

impl Rotation {
    /// The clusters that have not done their part.
    pub fn waits_for(&self) -> impl Iterator<Item = &ClusterProgress> {
        self.clusters.iter().filter(|cluster| !cluster.done)
    }
}

/// A cluster's part of a phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterProgress {
    /// The cluster.
    pub name: ClusterName,
    /// Whether it answers the gateway that was asked.
    pub reach: Reach,
    /// Whether all of its gateways have done theirs.
    pub done: bool,
    /// Whether those that have not only wait for a root that is offline.
    pub unsigned: bool,
    /// Its gateways.
    pub gateways: Vec<GatewayProgress>,
}

/// A gateway's part of a phase, its sidecars' included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayProgress {
    /// Its number.
    pub node: NodeId,
    /// Its name.
    pub name: Label,
    /// Whether it has told that it is done.
    pub done: bool,
    /// The root that signed its present certificates, by its key.
    pub certified_by: Option<Digest>,
}

/// Asks to begin a rotation: `{}`, or `{"next":{"kind":"offline","certificate":"…"}}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationRequest {
    /// The root to come. Left out, it is a new one, which is kept as the present one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextRoot>,
}

/// The root to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum NextRoot {
    /// A new one. Its key is made by the gateway that is asked, and sealed to those that vote.
    Sealed,
    /// One whose key is with the operator.
    Offline {
        /// Its certificate, DER.
        certificate: Blob,
    },
    /// An operator's own. Its key was sealed by the operator's tool, so that no gateway is told it.
    Own {
        /// Its certificate, DER.
        certificate: Blob,
        /// Its key, sealed to each of the [`Keepers`].
        envelopes: Envelopes,
    },
}

/// Those that a root's key is to be sealed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keepers {
    /// The federation.
    pub federation: FederationDomain,
    /// The gateways that vote.
    pub keepers: Vec<Keeper>,
}

/// A gateway that a root's key is to be sealed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeper {
    /// Its number.
    pub node: NodeId,
    /// The key to seal to.
    pub sealing_key: SealingKey,
}

/// A rotation that was begun, or was under way already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationStarted {
    /// The new root, by its key.
    pub root: Digest,
    /// False when it was under way already.
    pub changed: bool,
}

/// Asks to go on to the next phase: `{"root":"…","from":"distribute"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advance {
    /// The new root, by its key.
    pub root: Digest,
    /// The phase that shall be over.
    pub from: Phase,
    /// Clusters to fence if they have not done their part.
    #[serde(default)]
    pub fence: Vec<ClusterName>,
}

/// What came of going on, or of giving up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationChanged {
    /// False when it was so before.
    pub changed: bool,
    /// The clusters that were fenced for it.
    pub fenced: Vec<ClusterName>,
}
