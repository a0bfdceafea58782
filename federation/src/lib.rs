//! The federation's shared state: a registry replicated by Raft between gateways.
//!
//! Along the path of a join: [`enroll`] (the newcomer's side) → [`join`] (the federation's side) →
//! [`propose`] → `Registry::apply` → `custody` (certified) → [`membership`] (learner, then voter). Along the path of a catalog
//! change: [`exports`] → [`propose`] → [`network`] → [`store`] → `Registry::apply` → [`publish`]. [`node`] puts the
//! parts together. Whoever has nothing yet gets a [`snapshot`]; who speaks what is in [`protocol`].
//!
//! Liveness and capacity are deliberately absent: gateways tell each other directly, so that failover does
//! not wait for a quorum.

mod admission;
mod attempts;
pub mod backup;
mod batch;
pub mod caller;
mod claim;
pub mod clocks;
mod custody;
pub mod data_dir;
pub mod dial;
mod election;
pub mod enroll;
pub mod exports;
pub mod join;
pub mod lineage;
mod membership;
pub mod network;
pub mod node;
mod own_store;
pub mod propose;
pub mod protocol;
pub mod publish;
pub mod quorum;
mod raft_service;
pub mod raft_types;
pub mod replicas;
pub mod serve;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod snapshot;
pub mod status;
pub mod store;
#[cfg(test)]
mod tests;
mod understood;
mod voted;
mod writer;

pub use election::NotHandedOver;
pub use membership::Voting;
pub use node::{Handle, Options, Replica, Timing};
pub use propose::ProposeError;
pub use status::RegistryStatus;
