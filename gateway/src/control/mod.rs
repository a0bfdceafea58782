//! The control port: sidecars get their identity and their part of the snapshot here.
//!
//! A sidecar shows a workload token at first contact, or the still valid certificate that it got for one. Its
//! identity is fixed when the stream is attached and is the only one it can get certificates for.

mod attach;
mod attached;
mod listener;

pub use attach::ControlService;
pub use attached::{Attached, Wanted};
pub use listener::ControlListener;
