//! What can be proposed to the registry, and what comes of it.
//!
//! A command carries everything that its application needs, including the time, so that every replica
//! applies it alike. Each is idempotent: proposing it again after an unclear answer is always safe.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::catalog::Export;
use crate::locality::Locality;
use crate::name::{ClusterName, FederationDomain, Label, ServiceName};
use crate::registry::node::NodeId;
use crate::registry::token::{Digest, Grant, TokenId};
use crate::time::UnixMillis;

/// A command with its authenticated author and the time at which the leader took it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The cluster whose gateway proposed it. Set by the leader from the proposer's certificate; a
    /// cluster's own records can be changed under no other origin.
    pub origin: ClusterName,
    /// The leader's clock when it took the command.
    pub at: UnixMillis,
    /// What to do.
    pub command: Command,
}

/// A gateway as it introduces itself when it founds or joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name within the cluster.
    pub gateway: Label,
    /// Where the cluster stands.
    pub locality: Locality,
    /// The address at which other gateways and sidecars reach its east-west port.
    pub east_west: SocketAddr,
    /// SHA-256 of the public key (SPKI) of its intermediate certificate authority.
    pub key: Digest,
}

/// A change to the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Command {
    /// Starts the federation. Only the first entry of a registry can be this.
    Found {
        /// Its name.
        federation: FederationDomain,
        /// The federated root certificate, DER.
        root: Vec<u8>,
        /// The first gateway.
        founder: Introduction,
    },
    /// Records a token. The registry learns only the hash of its secret.
    MintToken {
        /// Public part of the token.
        id: TokenId,
        /// SHA-256 of the secret part.
        secret_hash: Digest,
        /// What the token is good for.
        grant: Grant,
        /// When it stops working.
        expires_at: UnixMillis,
    },
    /// Makes a token useless from now on.
    RevokeToken {
        /// Which one.
        id: TokenId,
    },
    /// Uses up a join token and admits the gateway that presented it.
    RedeemToken {
        /// Which token.
        id: TokenId,
        /// SHA-256 of the secret that was presented.
        secret_hash: Digest,
        /// Who presented it.
        newcomer: Introduction,
    },
    /// Tells a new address or locality of one of the origin's own gateways.
    UpdateNode {
        /// Which gateway.
        node: NodeId,
        /// Its east-west address from now on.
        east_west: SocketAddr,
        /// Where its cluster stands from now on.
        locality: Locality,
    },
    /// Offers a service of the origin to the federation, or changes the offer.
    SetExport {
        /// The service.
        service: ServiceName,
        /// The offer.
        export: Export,
    },
    /// Takes back an offer of the origin.
    WithdrawExport {
        /// The service.
        service: ServiceName,
    },
}

/// What a command did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// The registry changed.
    Changed,
    /// The registry already was as the command wants it.
    Unchanged,
    /// The gateway is a member with this node id (also when it was admitted by an earlier attempt with
    /// the same key).
    Admitted {
        /// Its id among the registry's replicas.
        node: NodeId,
    },
}

/// Why the registry would not do it. A refused command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Refusal {
    /// A second founding.
    #[error("the federation {federation} exists already: join it with a token instead of founding it")]
    AlreadyFounded {
        /// The one that exists.
        federation: FederationDomain,
    },
    /// Nothing can be done before the founding.
    #[error("the registry has no federation yet: start the founding gateway first")]
    NotFounded,
    /// The token's id is not in the registry.
    #[error("the token is unknown: it was never minted here, or its record is long expired; create a new one")]
    TokenUnknown,
    /// The id is known, the secret is not its secret.
    #[error("the token's secret does not match: it was altered on the way; copy it again or create a new one")]
    TokenSecretMismatch,
    /// Past its time.
    #[error("the token expired: create a new one, with a longer --ttl if needed")]
    TokenExpired,
    /// Redeemed by a different key before.
    #[error("the token was used already: join tokens work once; create a new one")]
    TokenUsed,
    /// Revoked by an operator.
    #[error("the token was revoked: create a new one")]
    TokenRevoked,
    /// Minted for another cluster.
    #[error("the token is for cluster {granted}, not for {presented}: check `cluster` in the gateway's configuration")]
    TokenWrongCluster {
        /// The cluster that the token admits.
        granted: ClusterName,
        /// The cluster that presented it.
        presented: ClusterName,
    },
    /// A workload token presented for a join, or the reverse.
    #[error("the token is of the wrong kind: joins take a --cluster token, sidecars a --workload token")]
    TokenWrongKind,
    /// An id that exists with other content.
    #[error("a token with this id exists already with other content")]
    TokenConflict,
    /// Minted by a cluster that may not admit gateways to the granted one.
    #[error(
        "cluster {origin} may not admit gateways to {cluster}, a member already: create the token in {cluster} or in the founding cluster"
    )]
    TokenNotYours {
        /// Who minted it.
        origin: ClusterName,
        /// Whose gateway it would admit.
        cluster: ClusterName,
    },
    /// A key names one gateway; this one is another's.
    #[error(
        "the key is that of gateway {gateway} in cluster {cluster}: a data directory cannot be copied, start this gateway with an empty one"
    )]
    KeyInUse {
        /// The cluster of the gateway that has the key.
        cluster: ClusterName,
        /// That gateway.
        gateway: Label,
    },
    /// The origin may not change this record.
    #[error("cluster {origin} may change only its own records")]
    NotOwner {
        /// Who tried.
        origin: ClusterName,
    },
    /// The origin is no member.
    #[error("cluster {origin} is not a member of the federation")]
    NotMember {
        /// Who tried.
        origin: ClusterName,
    },
    /// A named bound was reached.
    #[error("the limit of {limit} {what} is reached")]
    LimitReached {
        /// What there is too much of.
        what: String,
        /// How much is allowed.
        limit: usize,
    },
}
