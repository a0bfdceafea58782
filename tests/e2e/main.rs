//! The federation end to end: the real binary as gateways, sidecars, applications and operator's tool.
//!
//! Each test has clusters of its own on loopback addresses of its own, and waits for conditions only. What a
//! test kills is a process, with the signal that a crash, a freeze or an operator would be.

mod backup;
mod calls;
mod catalog;
mod containment;
mod edge;
mod exhaustion;
mod failover;
mod federation;
mod halves;
mod hostile;
mod interop;
mod introduction;
mod join;
mod load;
mod load_balancer;
mod manifests;
mod membership;
mod partition;
mod recovery;
mod redirect;
mod registry;
mod replicas;
mod root;
mod rotation;
mod routes;
mod rows;
mod vault;
mod workload;
