//! Byte streams: connecting, copying between two, putting back what was read too early, and one type for all kinds.

pub mod connect;
pub mod copy;
mod cut;
pub(crate) mod original;
pub mod prefixed;
mod stream;
mod unread;

pub use connect::connect;
pub use copy::{IDLE_MAX, copy_both};
pub(crate) use cut::{cut_when_revoked, cut_when_revoked_or};
pub use prefixed::Prefixed;
pub use stream::{ByteStream, Stream};
pub use unread::give_up_unread;
