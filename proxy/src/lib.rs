//! The data plane: what carries requests between workloads.
//!
//! The same code runs in a sidecar and in a gateway. Both watch a [`Snapshot`](isthmus_model::snapshot::Snapshot)
//! and know nothing of where it comes from. Follow a request through the modules: [`outbound`] takes it from
//! the application, asks the model where it may go, lets [`balance`] choose, and sends it through a pooled
//! [`tunnel`]; a gateway passes the session through unopened ([`passthrough`]); [`inbound`] asks the model
//! whether the authenticated peer may, and hands it to the application over [`plaintext`].
//!
//! Beside that path, [`workload_api`] hands a sidecar's identity to an application that does its TLS itself.
//!
//! Deliberately absent: protocols other than WebSocket behind `Upgrade`, response caching and buffering, and any retry of a
//! request that may have had an effect.

pub mod accept;
pub mod agent;
pub mod app;
pub mod balance;
pub mod config;
pub mod detect;
pub mod handshake;
pub mod inbound;
pub mod ingress;
pub mod limits;
pub mod message;
pub mod metrics;
pub mod opening;
pub mod outbound;
pub mod passthrough;
pub mod plaintext;
pub mod plane;
mod routing;
pub mod tcp;
pub mod tunnel;
pub mod unix_socket;
pub mod workload_api;

pub use accept::BindError;
pub use metrics::Metrics;
pub use plane::{DataPlane, Demand};
