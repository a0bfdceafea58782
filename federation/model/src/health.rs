//! What gateways tell each other outside Raft: who is alive and how much each can take.

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::name::{ClusterName, ServiceName};
use crate::registry::node::NodeId;
use crate::time::UnixMillis;

/// How many instances a cluster has of a service, and how many of those take work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Instances that take work.
    pub ready: u32,
    /// All instances.
    pub total: u32,
}

/// Whether a remote gateway answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Not heard from since this gateway started; assumed to be there until proven otherwise.
    #[default]
    Unknown,
    /// Its health stream is live.
    Up,
    /// Its health stream broke or fell silent, and it did not answer since.
    Down,
}

/// What is known of one remote gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHealth {
    /// Whether it answers.
    pub reach: Reach,
    /// When it was last heard.
    pub heard_at: Option<UnixMillis>,
    /// Whether it said last that it knows no quorum behind its registry, so that it cannot write to it.
    #[serde(default)]
    pub stale: bool,
    /// The capacity of what its cluster exports. Kept, not forgotten, while it is down.
    pub services: OrdMap<ServiceName, Capacity>,
}

/// What is known of every remote gateway. A copy costs nothing.
pub type PeerTable = OrdMap<NodeId, PeerHealth>;

/// Outcome of active probing of a cluster's own endpoints: those that failed. Keyed by the address probed.
pub type FailedEndpoints = std::collections::BTreeSet<std::net::SocketAddr>;

/// How old this gateway's agreed state is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// The cluster whose gateway leads the registry, if one is known.
    pub leader: Option<ClusterName>,
    /// When this gateway last knew a quorum behind its state; `None` while it does now.
    pub stale_since: Option<UnixMillis>,
}
