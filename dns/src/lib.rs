//! DNS of a gateway: answers the global names of the federation from a snapshot, forwards the rest.
//!
//! Read it in the order in which a query meets it: [`screen`] looks at the first twelve bytes, before
//! anything is allocated or parsed; `responder` decodes and decides; [`answer`] is the decision itself, pure,
//! over a [`Snapshot`](isthmus_model::snapshot::Snapshot); `render` makes records of it; `forward` and `upstream`
//! ask someone else; `udp`, `tcp` and [`server`] are the shell.
//!
//! Decoding, encoding, truncation and EDNS are hickory-server's and hickory-proto's. The accept loops are our
//! own: those of hickory-server have no limit on TCP connections, spin when file descriptors run out,
//! and answer a malformed *response* with FORMERR, which two servers could throw at each other.
//!
//! Deliberately absent: a cache (the clients' resolvers have one, and a stale answer is worse than a second
//! round trip), zone transfer, dynamic update, DNSSEC signing (no parent delegates `clusterset.local`), names
//! for single clusters (KEP-1645 forbids them for a service with one address), and headless services.

pub mod answer;
mod forward;
pub mod metrics;
mod namespaces;
mod render;
mod responder;
pub mod screen;
pub mod server;
mod tcp;
mod udp;
mod upstream;

pub use metrics::Metrics;
pub use server::{Bound, DnsConfig, DnsError, DnsServer, Limits};
