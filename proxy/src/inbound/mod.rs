//! The way in: from an authenticated session to the application; where the workload allows it, in the clear too.
//!
//! A session proves who the peer is and, by its SNI, which service it came for. Every request on it is
//! authorized again against the current view and the current roots, so that a revocation or a withdrawn
//! export takes effect on open sessions too.

mod admission;
mod clear;
mod forward;
mod listener;
mod session;
mod within;

pub use admission::{Inbound, Landing, Workload};
pub use listener::{InboundListener, serve_in_the_clear, serve_terminated};
