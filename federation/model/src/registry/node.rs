//! Members: the clusters of the federation and their gateways.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::command::Introduction;
use crate::locality::Locality;
use crate::name::{ClusterName, Label};
use crate::registry::token::Digest;
use crate::time::UnixMillis;

/// A gateway's number among the registry's replicas. Never reused.
pub type NodeId = u64;

/// A gateway that belongs to the federation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name within the cluster, as in its SPIFFE ID.
    pub gateway: Label,
    /// Where the cluster stands.
    pub locality: Locality,
    /// Where others reach its east-west port.
    pub east_west: SocketAddr,
    /// SHA-256 of its intermediate's public key.
    pub key: Digest,
    /// When it was admitted.
    pub joined_at: UnixMillis,
}

impl Node {
    /// Whether this is the record of the gateway that introduces itself, perhaps under an older key.
    #[must_use]
    pub fn is_gateway(&self, newcomer: &Introduction) -> bool {
        self.cluster == newcomer.cluster && self.gateway == newcomer.gateway
    }
}
