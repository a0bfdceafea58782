//! What goes over the wire between gateways and to sidecars, and its fallible conversion to the model.
//!
//! [`peer`] and [`control`] are generated from `proto/`; everything that a peer sends passes through a
//! conversion of this crate before any other code sees it: [`view`] for what a sidecar is told, [`health`]
//! for what gateways tell each other. [`error`] says which field of a message was bad. [`workload`] is the
//! standard's and not ours; its requests are empty, so that there is nothing to convert.

pub mod error;
mod field;
pub mod health;
pub mod view;

pub use error::WireError;

/// Messages and services between gateways.
#[allow(missing_docs, clippy::pedantic, unreachable_pub)]
pub mod peer {
    tonic::include_proto!("isthmus.peer.v1");
}

/// Messages and services between a sidecar and its gateway.
#[allow(missing_docs, clippy::pedantic, unreachable_pub)]
pub mod control {
    tonic::include_proto!("isthmus.control.v1");
}

/// The SPIFFE Workload API, X.509 profile: messages and service between a sidecar and its application.
#[allow(missing_docs, clippy::pedantic, unreachable_pub)]
pub mod workload {
    // The standard's service is in no package; prost calls the file of that `_`.
    tonic::include_proto!("_");
}
