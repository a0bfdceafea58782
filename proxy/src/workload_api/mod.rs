//! The SPIFFE Workload API, X.509 profile, over a Unix socket: an application that does its TLS itself gets the
//! workload's certificate, its key and the bundles from here, with any SPIFFE client, and again at each renewal.
//!
//! Follow a call through the files: [`server`] takes the connection and notes whose it is; `admission` looks at
//! every call before it is served; `service` answers it from what `feed` has made of the agent's state; and
//! `bundles` decides which certificates vouch for a trust domain.
//!
//! This is the only place where the workload's private key leaves the sidecar. By default only processes of the
//! sidecar's own user can connect; others have to be listed by user id, and are known by what the kernel says of
//! the connection. The key travels in gRPC messages, whose buffers are not wiped.
//!
//! Deliberately absent: the JWT profile (the federation has no JWT authority; its calls are answered
//! UNIMPLEMENTED, as the standard has it for a profile that is switched off), revocation lists (certificates are
//! short-lived), gRPC reflection, and TCP (it could not tell who calls).
//!
//! Sources: SPIFFE Workload API and SPIFFE Workload Endpoint, github.com/spiffe/spiffe, directory `standards`.

mod admission;
mod bundles;
mod feed;
pub mod server;
mod service;
#[cfg(test)]
mod tests;

pub use server::WorkloadApi;
