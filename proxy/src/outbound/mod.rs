//! The way out: from a client to the best place that serves what it asked for.
//!
//! A listener takes HTTP/1.1, HTTP/2 in the clear, or any TCP, and learns the service from the connection's
//! original destination, from the request's authority, or from the listener's own configuration. It is no
//! open proxy: what is not a service of the federation is refused, except that a redirected connection to
//! elsewhere goes where it was going, and that a gateway leads to the hosts outside that its operator listed.

mod attempts;
mod connect;
mod detected;
mod elsewhere;
pub(crate) mod exchange;
mod listener;
mod outside;
mod request;
mod target;

pub use listener::{Mode, OutboundListener};
pub(crate) use request::Answer;
pub(crate) use target::{NoTarget, Target, target};
