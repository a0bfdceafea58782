//! The east-west port: everything between clusters arrives here, on one port, told apart by SNI.
//!
//! The ClientHello is read, nothing more is opened unless it is meant for this gateway. What names a service
//! goes on unopened to a workload's sidecar, so that mutual TLS is end to end; only instances without a
//! sidecar have their sessions opened here. What names nothing that this cluster offers is closed.
//!
//! Behind a load balancer, its header is read first, and the connection is its client's from then on.

mod listener;
mod load;
mod sni;

pub use listener::EastWestListener;
