//! The registry in the Raft library's terms.

use isthmus_model::command::{Outcome, Refusal};
use isthmus_model::name::{ClusterName, Label};
use isthmus_model::registry::node::NodeId;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

pub use crate::batch::Batch;
use crate::snapshot::Encoded;

/// What the Raft library runs on.
#[cfg(not(feature = "simulation"))]
pub type Runtime = openraft::TokioRuntime;
/// What the Raft library runs on.
#[cfg(feature = "simulation")]
pub type Runtime = crate::simulation::SeedableRuntime;

openraft::declare_raft_types!(
    /// The registry as a replicated state machine.
    pub RegistryRaft:
        D = Batch,
        R = Applied,
        NodeId = NodeId,
        Node = Peer,
        SnapshotData = Encoded,
        AsyncRuntime = Runtime,
);

/// A running replica.
pub type Raft = openraft::Raft<RegistryRaft>;
/// A log entry with its place in the log.
pub type LogEntry = openraft::Entry<RegistryRaft>;
/// A place in the log.
pub type LogId = openraft::LogId<NodeId>;
/// Why the store could not read or write.
pub type StorageError = openraft::StorageError<NodeId>;
/// The replicas as the log last said.
pub type StoredMembership = openraft::StoredMembership<NodeId, Peer>;

/// What became of a committed entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// An entry of the Raft library's own.
    Nothing,
    /// What the registry did with each of its writes.
    Each(Vec<Result<Outcome, Refusal>>),
}

/// Where a replica is reached. It is part of the Raft membership, not looked up in the registry, because
/// a replica that restarts must find its peers before it knows what is committed. The Raft library wants a
/// default value, which no real member has: hence the `Option`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Peer(pub Option<PeerAddress>);

/// A gateway as a peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerAddress {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name, as in its SPIFFE ID.
    pub gateway: Label,
    /// Its east-west address.
    pub east_west: SocketAddr,
}

impl From<&isthmus_model::registry::node::Node> for PeerAddress {
    fn from(node: &isthmus_model::registry::node::Node) -> Self {
        Self { cluster: node.cluster.clone(), gateway: node.gateway.clone(), east_west: node.east_west }
    }
}

impl From<&isthmus_model::registry::node::Node> for Peer {
    fn from(node: &isthmus_model::registry::node::Node) -> Self {
        Self(Some(node.into()))
    }
}
