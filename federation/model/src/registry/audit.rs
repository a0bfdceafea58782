//! What happened to the federation's membership and trust, for those who ask afterwards.

use std::collections::BTreeMap;
use std::net::IpAddr;

use imbl::Vector;
use serde::{Deserialize, Serialize};

use super::node::NodeId;
use super::token::{Digest, TokenId};
use super::trust::Phase;
use crate::name::{ClusterName, Label};
use crate::time::UnixMillis;

/// Records kept. Some kilobytes; what is older belongs into the gateways' logs, which tell the same.
pub const RECORDS_MAX: usize = 1_000;

/// Something that an operator may want to know of later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The federation began.
    Founded,
    /// The registry was restored from a backup.
    Restored {
        /// The gateway that it was restored on.
        node: NodeId,
        /// When the backup was made.
        taken_at: UnixMillis,
    },
    /// A token was made.
    TokenMinted {
        /// Which one.
        token: TokenId,
        /// At which gateway.
        gateway: Label,
    },
    /// A token was made useless.
    TokenRevoked {
        /// Which one.
        token: TokenId,
    },
    /// A gateway came in.
    TokenRedeemed {
        /// With which token.
        token: TokenId,
        /// Its cluster.
        cluster: ClusterName,
        /// Its name.
        gateway: Label,
        /// The node id that it got.
        node: NodeId,
        /// From where it came.
        from: Option<IpAddr>,
    },
    /// The root signed for a gateway.
    Certified {
        /// For which one.
        node: NodeId,
        /// Its cluster.
        cluster: ClusterName,
        /// Its authority's key.
        authority_key: Digest,
        /// Which root.
        root: Digest,
    },
    /// A root's key was sealed to other gateways.
    Resealed {
        /// Which root.
        root: Digest,
        /// To whom.
        keepers: Vec<NodeId>,
    },
    /// A change of root was begun.
    RotationStarted {
        /// The new one.
        root: Digest,
    },
    /// A phase of a rotation was over.
    RotationAdvanced {
        /// Which phase.
        from: Phase,
    },
    /// A rotation was given up.
    RotationAborted,
    /// A cluster's traffic was moved away, or let back.
    Drained {
        /// Which cluster.
        cluster: ClusterName,
        /// Away, or back.
        draining: bool,
    },
    /// A cluster left.
    Left {
        /// Which one.
        cluster: ClusterName,
    },
    /// A cluster was fenced.
    Fenced {
        /// Which one.
        cluster: ClusterName,
        /// Why.
        why: String,
    },
    /// A fence was taken back.
    Unfenced {
        /// Of which cluster.
        cluster: ClusterName,
    },
    /// A cluster became an administrator, or ceased to be.
    AdministratorSet {
        /// Which one.
        cluster: ClusterName,
        /// Became, or ceased.
        administrator: bool,
    },
}

/// An event with its author.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When.
    pub at: UnixMillis,
    /// The cluster whose gateway brought it about.
    pub origin: ClusterName,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

impl Record {
    /// The cluster that made it come about: who comes in or asks for certificates does so at others.
    fn caused_by(&self) -> &ClusterName {
        match &self.event {
            Event::TokenRedeemed { cluster, .. } | Event::Certified { cluster, .. } => cluster,
            _ => &self.origin,
        }
    }
}

/// Makes room for one more record, at the cost of the cluster that caused the most: by doing much, a cluster covers up
/// what it did itself, and of another one at most what that has beyond its half.
pub(super) fn make_room(records: &mut Vector<Record>) {
    if records.len() < RECORDS_MAX {
        return;
    }
    let mut counts: BTreeMap<&ClusterName, usize> = BTreeMap::new();
    for record in records.iter() {
        *counts.entry(record.caused_by()).or_default() += 1;
    }
    let busiest = counts.into_iter().max_by_key(|(_, count)| *count).map(|(cluster, _)| cluster);
    let oldest = busiest.and_then(|busiest| records.iter().position(|record| record.caused_by() == busiest));
    records.remove(oldest.unwrap_or(0));
}
