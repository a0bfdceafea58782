//! The way in: from an authenticated session to the application.
//!
//! A session proves who the peer is and, by its SNI, which service it came for. Every request on it is
//! authorized again against the current view and the current roots, so that a revocation or a withdrawn
//! export takes effect on open sessions too.

mod admission;
mod forward;
mod listener;
mod session;

pub use admission::Landing;
pub use listener::{InboundListener, serve_terminated};
