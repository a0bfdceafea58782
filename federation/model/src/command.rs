//! What can be proposed to the registry, and what comes of it.
//!
//! A command carries everything that its application needs, including the time, so that every replica
//! applies it alike. Each is idempotent: proposing it again after an unclear answer is always safe.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::catalog::Export;
use crate::locality::Locality;
use crate::name::{ClusterName, FederationDomain, Label, ServiceName};
use crate::registry::node::{Certificates, NodeId, Requests, SealingKey};
use crate::registry::token::{Digest, Grant, TokenId};
use crate::registry::trust::{Envelopes, Phase, Root};
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
    /// Where secrets for it are sealed to.
    pub sealing_key: SealingKey,
    /// The keys that it asks to have certified.
    pub requests: Requests,
}

/// A change to the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Command {
    /// Starts the federation. Only the first entry of a registry can be this.
    Found {
        /// Its name.
        federation: FederationDomain,
        /// The federated root.
        root: Root,
        /// The first gateway.
        founder: Introduction,
        /// What the root signed for it.
        certificates: Certificates,
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
        /// The gateway at which an operator asked for it.
        gateway: Label,
        /// The root that it pins, by its key.
        root: Digest,
    },
    /// Makes a token useless from now on.
    RevokeToken {
        /// Which one.
        id: TokenId,
    },
    /// Uses a join token and admits the gateway that presented it. It is a member once it is certified.
    RedeemToken {
        /// Which token.
        id: TokenId,
        /// SHA-256 of the secret that was presented.
        secret_hash: Digest,
        /// Who presented it.
        newcomer: Introduction,
        /// From where, as the gateway that was asked saw it.
        from: Option<IpAddr>,
    },
    /// Asks for new certificates for one of the origin's own gateways: a renewal.
    RequestCertificates {
        /// Which gateway.
        node: NodeId,
        /// For which keys.
        requests: Requests,
    },
    /// Answers a gateway's pending requests.
    Issue {
        /// Which gateway's.
        node: NodeId,
        /// The authority key that they were for, by which a late answer to other requests is told apart.
        authority_key: Digest,
        /// The answer.
        certificates: Certificates,
    },
    /// Seals a root's key to other gateways than before: to those that vote now.
    Reseal {
        /// The root, by its key.
        root: Digest,
        /// Its key for each of them.
        envelopes: Envelopes,
    },
    /// Begins the change to a new root.
    StartRotation {
        /// The new one.
        root: Root,
    },
    /// Tells that a gateway and its sidecars have done what a phase of the rotation asks.
    Acknowledge {
        /// Which gateway.
        node: NodeId,
        /// The new root, by its key.
        root: Digest,
        /// The phase.
        phase: Phase,
    },
    /// Goes on with the rotation, when everyone has done their part of a phase.
    AdvanceRotation {
        /// The new root, by its key.
        root: Digest,
        /// The phase that shall be over.
        from: Phase,
    },
    /// Gives a rotation up that has not signed anything yet.
    AbortRotation,
    /// Tells new addresses or a new locality of one of the origin's own gateways.
    UpdateNode {
        /// Which gateway.
        node: NodeId,
        /// Its east-west address from now on.
        east_west: SocketAddr,
        /// Its control port from now on, if its cluster's sidecars can reach it.
        #[serde(default)]
        control: Option<SocketAddr>,
        /// Where its cluster stands from now on.
        locality: Locality,
    },
    /// Moves traffic away from a cluster, or lets it come back.
    Drain {
        /// Which cluster.
        cluster: ClusterName,
        /// Away, or back.
        draining: bool,
    },
    /// Ends a cluster's membership, in order.
    Leave {
        /// Which cluster.
        cluster: ClusterName,
    },
    /// Ends a cluster's membership at once, and trust in all of its keys.
    Fence {
        /// Which cluster.
        cluster: ClusterName,
        /// Why, in the operator's words.
        why: String,
    },
    /// Takes a fence back, unless the cluster has joined anew since.
    Unfence {
        /// Which cluster.
        cluster: ClusterName,
    },
    /// Makes a cluster one whose operators may act on others, or takes that away.
    SetAdministrator {
        /// Which cluster.
        cluster: ClusterName,
        /// Given, or taken.
        administrator: bool,
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
    /// Redeemed by as many as it admits.
    #[error("the token was used already: it admits no more gateways; create a new one")]
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
    /// Minted for another region.
    #[error("the token is for region {granted}, not for {presented}: check `locality` in the gateway's configuration")]
    TokenWrongRegion {
        /// The region that the token admits.
        granted: Label,
        /// The region that presented it.
        presented: Label,
    },
    /// Presented from elsewhere.
    #[error("the token does not work from this address: it was created with --from; join from there")]
    TokenWrongSource,
    /// A workload token presented for a join, or the reverse.
    #[error("the token is of the wrong kind: joins take a --cluster token, sidecars a --workload token")]
    TokenWrongKind,
    /// An id that exists with other content.
    #[error("a token with this id exists already with other content")]
    TokenConflict,
    /// Not an address at which other machines reach a gateway.
    #[error("{address} is no address at which other clusters reach a gateway: check `address` and `advertise`")]
    BadAddress {
        /// The address.
        address: SocketAddr,
    },
    /// The key was withdrawn from use.
    #[error("the key belongs to a cluster that was fenced or left: start with an empty data directory and a new token")]
    KeyDenied,
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
    /// The federation has no such gateway, or has replaced it.
    #[error("gateway {node} is not a member: it was replaced, left or was fenced; join again with a new token")]
    NodeUnknown {
        /// Which one.
        node: NodeId,
    },
    /// Only administrators act on others.
    #[error(
        "cluster {origin} may do this only to itself: ask in a cluster that administers the federation (`isthmus clusters` marks them)"
    )]
    NotAdministrator {
        /// Who tried.
        origin: ClusterName,
    },
    /// There would be nobody left to administer the federation.
    #[error("cluster {cluster} is the last that administers the federation: make another one an administrator first")]
    LastAdministrator {
        /// Which one.
        cluster: ClusterName,
    },
    /// Nobody would be left who can open the root's key.
    #[error(
        "cluster {cluster} is the last whose gateways keep the root's key: let others join and vote first (`isthmus status`)"
    )]
    LastKeeper {
        /// Which one.
        cluster: ClusterName,
    },
    /// A cluster does not fence itself.
    #[error("a cluster cannot fence itself: use `isthmus cluster leave`, or fence it from another cluster")]
    FencesItself,
    /// There is no fence to take back.
    #[error("cluster {cluster} is not fenced, or has joined anew since")]
    NotFenced {
        /// Which one.
        cluster: ClusterName,
    },
    /// The root was replaced while the cluster was out: it does not trust the others any more, nor they it.
    #[error(
        "cluster {cluster} missed a rotation of the root while it was fenced: let it join anew, with a new token and an empty data directory"
    )]
    MissedRotation {
        /// Which one.
        cluster: ClusterName,
    },
    /// There is no such cluster.
    #[error("cluster {cluster} is not a member: see `isthmus clusters`")]
    ClusterUnknown {
        /// Which one.
        cluster: ClusterName,
    },
    /// The root is not one of the federation's.
    #[error("the root is not one of the federation's: see `isthmus ca status`")]
    RootUnknown,
    /// The root's key is kept offline.
    #[error("the root's key is with the operator, not in the registry: use `isthmus ca sign` where it is")]
    RootOffline,
    /// Only who can open the root's key, or signs offline for the federation, gives certificates.
    #[error("cluster {origin} does not keep the root's key")]
    NotKeeper {
        /// Who tried.
        origin: ClusterName,
    },
    /// Signed by another root than the one whose turn it is.
    #[error("the certificates are not signed by the root that signs at present: see `isthmus ca status`")]
    WrongIssuer,
    /// The same root again.
    #[error("this root is the federation's already")]
    SameRoot,
    /// A root that was replaced not long ago.
    #[error(
        "this root was replaced within the last 100 days, and what it signed then would be trusted again: make another one"
    )]
    RootRetired,
    /// One rotation at a time.
    #[error("a rotation of the root is under way: see `isthmus ca status`, go on with `isthmus ca rotate`")]
    RotationUnderWay,
    /// Someone has not done their part.
    #[error("{} gateways have not done their part yet: see `isthmus ca status`", nodes.len())]
    RotationWaits {
        /// Who.
        nodes: Vec<NodeId>,
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
