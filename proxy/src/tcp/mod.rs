//! Byte streams: connecting, copying between two, and putting back what was read too early.

pub mod connect;
pub mod copy;
mod cut;
pub(crate) mod original;
pub mod prefixed;
mod unread;

pub use connect::connect;
pub use copy::{IDLE_MAX, copy_both};
pub(crate) use cut::{cut_when_revoked, cut_when_revoked_or};
pub use prefixed::Prefixed;
pub use unread::give_up_unread;
