//! The way in from outside: clients that are nobody's workload, over HTTPS or HTTP, to services of the federation.
//!
//! The gateway shows the operator's certificates, chooses a rule of the cluster's HTTPRoutes, and goes on as a client of the
//! federation of its own ([`crate::outbound`]), with the same balancing, failover and identity. What its clients say about where they
//! come from is not believed, what went wrong inside is not told them, and what a path means is settled once.

mod listener;
mod request;

pub use listener::{IngressListener, Security};
