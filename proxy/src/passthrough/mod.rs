//! Sessions that a gateway passes on unopened: reads whose they are from a load balancer's header and whom
//! they are for from the ClientHello, and moves the bytes without looking at them.

mod client_hello;
pub mod proxy_protocol;
mod read;
mod relay;

pub use client_hello::{CLIENT_HELLO_MAX, Malformed, Progress, sni};
pub use read::{ClientHello, Opening, OpeningError};
pub use relay::{Relayed, relay};
