//! The control port and socket: sidecars get their identity and their part of the snapshot here.
//!
//! On the port a sidecar shows a workload token at first contact, or the still valid certificate that it got for one;
//! on the socket, which is for this machine's processes, the kernel says whose it is. Its identity is fixed when the
//! stream is attached and is the only one it can get certificates for.

mod attach;
mod attached;
mod listener;
mod socket;
mod warrant;

pub use attach::{ControlService, Inputs};
pub use attached::{Attached, Wanted};
pub use listener::ControlListener;
pub use socket::{ControlSocketConfig, bind};
pub use warrant::Users;
