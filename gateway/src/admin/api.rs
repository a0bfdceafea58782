//! The admin API's JSON, under `/v1`. The command line reads the same types.
//!
//! Field names are stable: a release may add fields, it does not rename or remove them. Points in time are
//! milliseconds since the Unix epoch by the gateway's clock, spans of time milliseconds, shares per mille.
//!
//! | route | answer |
//! | --- | --- |
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/snapshot` | [`SnapshotAge`] |
//! | `GET /v1/clusters` | [`Clusters`] |
//! | `GET /v1/services` | [`Services`] |
//! | `GET /v1/endpoints/{namespace}/{name}?port=N` | [`Endpoints`] |
//! | `GET /v1/problems` | [`Problems`] |
//! | `GET /v1/config` | [`GatewayConfig`](crate::config::GatewayConfig) |
//! | `GET /v1/audit` | [`Audit`] |
//! | `POST /v1/clusters/{name}` with [`MembershipChange`] | [`MembershipChanged`] |
//! | `GET /v1/tokens` | [`Tokens`] |
//! | `POST /v1/tokens` with [`TokenRequest`] | [`TokenCreated`] |
//! | `DELETE /v1/tokens/{id}` | [`TokenRevoked`] |
//! | `GET /v1/registry` | [`RegistryView`] |
//! | `POST /v1/backup` with [`BackupRequest`] | the backup, as bytes |
//! | `GET /v1/ca` | [`Ca`](super::ca::api::Ca) |
//! | `POST /v1/ca/rotation` | [`RotationStarted`](super::ca::api::RotationStarted) |
//! | `POST /v1/ca/rotation/advance` with [`Advance`](super::ca::api::Advance) | [`RotationChanged`](super::ca::api::RotationChanged) |
//! | `DELETE /v1/ca/rotation` | [`RotationChanged`](super::ca::api::RotationChanged) |
//! | `GET /v1/ca/requests` | [`CaRequests`] |
//! | `POST /v1/ca/certificates` with [`Signed`](crate::ca_files::Signed) | [`CaIssued`] |
//!
//! Any other answer is a [`Failure`] with a status of 4xx or 5xx.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use isthmus_federation::status::Role;
use isthmus_model::catalog::ServicePort;
use isthmus_model::health::Reach;
use isthmus_model::locality::{Locality, Proximity};
use isthmus_model::name::{ClusterName, FederationDomain, Label, ServiceName};
use isthmus_model::registry::node::NodeId;
use isthmus_model::registry::token::TokenId;
use isthmus_model::spiffe::{SpiffeId, WorkloadName};
use isthmus_model::time::UnixMillis;
use serde::{Deserialize, Serialize};

mod membership;
mod registry;

pub use membership::{Audit, Departed, MembershipChange, MembershipChanged};
pub use registry::{RegistryView, Replica};

pub use super::ca_requests::{CaIssued, CaRequest, CaRequests, Issuance};

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What is wrong and what to check.
    pub error: String,
}

/// How a gateway and its federation stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The gateway's release.
    pub version: String,
    /// The federation.
    pub federation: FederationDomain,
    /// The gateway's cluster.
    pub cluster: ClusterName,
    /// The gateway's name.
    pub gateway: Label,
    /// Where the cluster stands.
    pub locality: Locality,
    /// The registry, as this gateway sees it.
    pub registry: RegistryState,
    /// The clusters, the own one included.
    pub clusters: ClusterCounts,
    /// Services that the own cluster exports.
    pub exports: usize,
    /// Services that any cluster exports.
    pub services: usize,
    /// Problems with the own cluster's manifests.
    pub problems: usize,
    /// The virtual addresses of services, as this gateway listens on them.
    #[serde(default)]
    pub vips: Vips,
    /// How gateways' certificates stand.
    #[serde(default)]
    pub issuance: Issuance,
}

/// Virtual addresses, each with its ports counted one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vips {
    /// How many this gateway listens on.
    pub bound: usize,
    /// How many it cannot listen on.
    pub unbound: usize,
    /// The first of those, and what the system says.
    pub first_unbound: Option<UnboundVip>,
}

/// A virtual address that cannot be listened on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnboundVip {
    /// The address and port.
    pub address: SocketAddr,
    /// Why.
    pub reason: String,
}

/// The registry, as one replica sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryState {
    /// This replica's number.
    pub node: NodeId,
    /// What it is in the registry.
    pub role: Role,
    /// The Raft term.
    pub term: u64,
    /// Who leads, if anyone is known to.
    pub leader: Option<Member>,
    /// Who votes.
    pub voters: Vec<Member>,
    /// Who replicates without a vote.
    pub learners: Vec<Member>,
    /// Index of the last entry in this replica's log.
    pub last_log: u64,
    /// Index of the last entry that it applied.
    pub applied: u64,
    /// How many entries changed the agreed state.
    pub revision: u64,
    /// Since when no quorum stands behind the state; null while one does.
    pub stale_since: Option<UnixMillis>,
    /// How long that is, in milliseconds.
    pub stale_for_ms: Option<u64>,
}

/// A replica by number, and by name if the agreed state has one for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its number.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: Option<ClusterName>,
    /// Its name.
    pub gateway: Option<Label>,
}

/// How many clusters can be reached. A cluster is up while one of its gateways is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterCounts {
    /// Clusters that answer.
    pub up: usize,
    /// Clusters none of whose gateways answers.
    pub down: usize,
    /// Clusters that were not heard since this gateway started.
    pub unknown: usize,
}

/// The age of what data planes see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotAge {
    /// Grows with every published view of one process.
    pub generation: u64,
    /// Services in the view.
    pub services: usize,
    /// Other clusters in the view.
    pub clusters: usize,
    /// The cluster whose gateway leads the registry.
    pub leader: Option<ClusterName>,
    /// Since when no quorum stands behind the agreed part; null while one does.
    pub stale_since: Option<UnixMillis>,
    /// How long that is, in milliseconds.
    pub stale_for_ms: Option<u64>,
}

/// Every member cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clusters {
    /// By name.
    pub clusters: Vec<Cluster>,
    /// Those that left or were fenced, by name.
    pub departed: Vec<Departed>,
}

/// A member cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// Where it stands.
    pub locality: Locality,
    /// How near it is.
    pub proximity: Proximity,
    /// Whether one of its gateways answers.
    pub reach: Reach,
    /// Whether its operators may act on other clusters.
    pub administrator: bool,
    /// Since when its traffic is moved away; null when it is not.
    pub draining_since: Option<UnixMillis>,
    /// Services that it exports.
    pub exports: usize,
    /// Its gateways, by number.
    pub gateways: Vec<Gateway>,
}

/// What a replica may do in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seat {
    /// Leads and votes.
    Leader,
    /// Votes.
    Voter,
    /// Replicates without a vote.
    Learner,
    /// A member of the federation that does not replicate yet.
    Absent,
}

/// A gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Its number.
    pub node: NodeId,
    /// Its name.
    pub name: Label,
    /// Its east-west address.
    pub east_west: SocketAddr,
    /// Whether it answers; the gateway that was asked always does.
    pub reach: Reach,
    /// What it may do in the registry.
    pub seat: Seat,
    /// When it was last heard; null for the gateway that was asked, and before the first word.
    pub heard_at: Option<UnixMillis>,
    /// How long ago that was, in milliseconds.
    pub heard_ago_ms: Option<u64>,
}

/// Every service that the gateway knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// By name.
    pub services: Vec<Service>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// `namespace/name`.
    pub name: ServiceName,
    /// Its global host name; resolves only while `federated`.
    pub host: String,
    /// Whether any cluster exports it.
    pub federated: bool,
    /// Its virtual address in the own cluster.
    pub vip: Option<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// The clusters that can answer, the own one first, then the nearest.
    pub backends: Vec<Backend>,
}

/// What a cluster has of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The cluster.
    pub cluster: ClusterName,
    /// How near it is.
    pub proximity: Proximity,
    /// Whether it exports the service.
    pub exported: bool,
    /// Whether the cluster answers.
    pub reach: Reach,
    /// Instances that take work.
    pub ready: u32,
    /// All instances.
    pub total: u32,
}

/// Where requests for a port of a service go, as the gateway itself would send them. A data plane also
/// avoids what it has seen failing lately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// The service.
    pub service: ServiceName,
    /// Its global host name.
    pub host: String,
    /// Its virtual address.
    pub vip: Option<IpAddr>,
    /// The port that the answer is about; null when the service has none.
    pub port: Option<u16>,
    /// Nearest first.
    pub levels: Vec<Level>,
}

/// The destinations of one nearness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// How near.
    pub proximity: Proximity,
    /// Its share of all requests, per mille.
    pub share_permille: u32,
    /// Every destination, also those that take nothing now.
    pub destinations: Vec<Destination>,
}

/// An instance in the own cluster, or another cluster's gateway with the instances behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// The cluster.
    pub cluster: ClusterName,
    /// The gateway; null for an instance in the own cluster.
    pub gateway: Option<Label>,
    /// The address that is dialed.
    pub address: SocketAddr,
    /// Whether requests are sent to it.
    pub used: bool,
    /// Its share of all requests, per mille: its part of its level's, by capacity. 0 when it is not used.
    #[serde(default)]
    pub share_permille: u32,
    /// Whether the gateway answers; null for an instance in the own cluster.
    pub reach: Option<Reach>,
    /// Instances behind the address that take work.
    pub ready: u32,
    /// All instances behind the address.
    pub total: u32,
    /// Whether mutual TLS ends at the instance, not at a gateway or nowhere.
    pub sidecar: bool,
    /// Who may answer there.
    pub identities: Vec<SpiffeId>,
}

/// What is wrong with the own cluster's manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problems {
    /// By file and line.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub suppressed: usize,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The file, below the directory of manifests; null for the directory itself.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<u32>,
    /// `Kind namespace/name` of the object.
    pub object: Option<String>,
    /// `error`: not taken, the last good state stays. `warning`: taken.
    pub severity: String,
    /// What is wrong and what to check.
    pub reason: String,
}

/// The tokens on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// The newest first.
    pub tokens: Vec<Token>,
}

/// Whom a join token admits. Fields that are left out do not matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// Only this cluster.
    #[serde(default)]
    pub cluster: Option<ClusterName>,
    /// Only clusters in this region.
    #[serde(default)]
    pub region: Option<Label>,
    /// Only from these addresses, as the gateway that is asked sees them.
    #[serde(default)]
    pub from: Option<IpNet>,
    /// How many gateways; 1 unless given.
    #[serde(default = "once")]
    pub uses: u32,
}

fn once() -> u32 {
    1
}

/// What a token is good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Grant {
    /// Admits gateways.
    Join(Invitation),
    /// Lets sidecars of a workload of the own cluster get its identity, until it expires.
    Workload {
        /// `namespace/service-account`.
        workload: WorkloadName,
    },
}

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenState {
    /// It works.
    Open,
    /// As many gateways joined with it as it admits.
    Used,
    /// An operator revoked it.
    Revoked,
    /// Its time is over.
    Expired,
}

/// A gateway that joined with a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redemption {
    /// The node id that it got.
    pub node: NodeId,
    /// From where it came, as the gateway that it asked saw it.
    pub from: Option<IpAddr>,
    /// When.
    pub at: UnixMillis,
}

/// A token's record. Its secret is nowhere but in the token itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its public part.
    pub id: TokenId,
    /// What it is good for.
    pub grant: Grant,
    /// The cluster that minted it.
    pub minted_by: ClusterName,
    /// The gateway there at which an operator asked for it.
    pub minted_at_gateway: Label,
    /// When it was minted.
    pub minted_at: UnixMillis,
    /// When it stops working.
    pub expires_at: UnixMillis,
    /// What became of it.
    pub state: TokenState,
    /// Who joined with it.
    pub redemptions: Vec<Redemption>,
}

/// Asks for a token: `{"grant":{"join":{"cluster":"us-west"}},"ttl_seconds":600}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// What it shall be good for.
    pub grant: Grant,
    /// For how long.
    pub ttl_seconds: u64,
}

/// A new token. This is the only time that its secret is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCreated {
    /// Its public part.
    pub id: TokenId,
    /// The whole token, secret included.
    pub token: String,
    /// When it stops working.
    pub expires_at: UnixMillis,
}

/// A token that does not work any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRevoked {
    /// Which one.
    pub id: TokenId,
    /// False when it had been revoked before.
    pub changed: bool,
    /// Whether it is on record. What it vouched for is taken back in any case.
    pub known: bool,
}

/// Asks for a backup of the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// Whom it shall be sealed to: `isthmus-recipient1...`.
    pub recipient: String,
}
