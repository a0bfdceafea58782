//! HTTP messages as a proxy sees them: whom a request is for, which fields it may carry, and its body.

pub mod authority;
pub mod body;
pub mod fields;
pub mod quiet;
pub mod received;
pub mod replay;
pub mod reply;
pub mod server;
pub(crate) mod streams;
pub mod upgrade;

pub use body::Body;
pub use received::Received;
